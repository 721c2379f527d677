"""The building blocks of HTML pages: sections, plots, pictures. They know no run and no set."""
