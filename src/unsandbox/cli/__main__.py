"""`python -m unsandbox.cli` is `un`."""

from unsandbox.cli.main import main

if __name__ == "__main__":
    main()
