"""Fit the half-life of a radioactive sample to its measured counts; print a table of one row.

The file has the columns `seconds` and `counts`. A straight line is fitted to the logarithm of the counts,
each weighted with the counts themselves, as Poisson statistics wants it.
"""

import csv
import math
import sys
from pathlib import Path

with Path(sys.argv[1]).open(newline="", encoding="utf-8") as file:
    points = [(float(row["seconds"]), float(row["counts"])) for row in csv.DictReader(file)]
points = [(seconds, math.log(counts), counts) for seconds, counts in points if counts > 0]

weight = sum(w for _, _, w in points)
mean_x = sum(w * x for x, _, w in points) / weight
mean_y = sum(w * y for _, y, w in points) / weight
spread = sum(w * (x - mean_x) ** 2 for x, _, w in points)
slope = sum(w * (x - mean_x) * (y - mean_y) for x, y, w in points) / spread

half_life = -math.log(2) / slope
uncertainty = half_life * math.sqrt(1 / spread) / abs(slope)
print("points,half_life,uncertainty")
print(f"{len(points)},{half_life:.2f},{uncertainty:.2f}")
