"""`python -m fedstudy_operator.kube`: the operator."""

from fedstudy_operator.kube.main import main

if __name__ == "__main__":
    main()
