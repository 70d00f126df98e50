"""Who is compared with whom: problems, providers and checks of `fastkeras bench` and of bench/."""
