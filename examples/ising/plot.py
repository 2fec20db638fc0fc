"""Draw the collected table with characters: magnetisation and heat capacity over the temperature."""

import csv
from collections import defaultdict
from pathlib import Path

runs = defaultdict(list)
with (Path(__file__).parent / "ising_run" / "results.csv").open(newline="") as file:
    for row in csv.DictReader(file):
        runs[float(row["temperature"])].append((float(row["magnetisation"]), float(row["heat_capacity"])))

print(f"{'T':>4}  {'|m|':<5} {'':30}  C")
for temperature in sorted(runs):
    m, c = (sum(column) / len(column) for column in zip(*runs[temperature], strict=True))
    print(f"{temperature:4.1f}  {m:.3f} {'#' * round(30 * m):30}  {c:.3f} {'#' * round(15 * c)}")
