"""A trained classifier in the forms that others load, checked before it is there."""
