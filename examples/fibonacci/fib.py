"""Print a Fibonacci number, computed the slow way so that large numbers take long."""

import argparse


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("-n", type=int, required=True)
n = parser.parse_args().n
print(f"fib({n}) = {fib(n)}")
