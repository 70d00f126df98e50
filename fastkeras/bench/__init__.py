"""The problems, providers and checks that `fastkeras bench` and bench/ compare."""
