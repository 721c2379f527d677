"""``python -m dearkd``, which ``accelerate launch -m dearkd`` needs."""

from dearkd.cli.main import main

if __name__ == "__main__":
    main()
