"""`python -m tame_deploy` is the tame-deploy command, which torchrun needs."""

from tame_deploy.cli import main

if __name__ == "__main__":
    main()
