"""`python -m amplifier_app_api` is `amplifier-api`."""

from amplifier_app_api.cli import main

if __name__ == "__main__":
    main()
