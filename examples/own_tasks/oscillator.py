"""How far an oscillator with friction swings when it is driven at one frequency, by simulating it."""

import argparse
import json
import math

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--frequency", type=float, required=True, help="of the drive")
parser.add_argument("--friction", type=float, default=0.2, help="(default: %(default)s)")
parser.add_argument("--steps", type=int, default=20_000, help="of the simulation (default: %(default)s)")
options = parser.parse_args()

OWN_FREQUENCY = 2.0
STEP = 0.005

place, speed, swing = 0.0, 0.0, 0.0
for step in range(options.steps):
    drive = math.cos(options.frequency * step * STEP)
    speed += STEP * (drive - options.friction * speed - OWN_FREQUENCY**2 * place)
    place += STEP * speed
    if step > options.steps // 2:  # the beginning has died away
        swing = max(swing, abs(place))
print(json.dumps({"swing": round(swing, 4)}))
