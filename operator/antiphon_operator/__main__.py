"""`python -m antiphon_operator`: the operator, told by its environment."""

from antiphon_operator.main import main

if __name__ == "__main__":
    main()
