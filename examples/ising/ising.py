"""Simulate the two-dimensional Ising model at one temperature; print a line of JSON.

Metropolis on a checkerboard: the spins of one colour have no neighbours of their own colour, so all of them
are updated at once. Energies are in units of the coupling J, temperatures in J / k_B; all values are a spin.
"""

import argparse
import json

import numpy as np


def neighbours(spins):
    """Sum of the four neighbours of every spin; the lattice is a torus."""
    return sum(np.roll(spins, shift, axis) for axis in (0, 1) for shift in (-1, 1))


def simulate(size, temperature, sweeps, rng):
    """Give the energy and the magnetisation of the lattice after every sweep."""
    spins = np.ones((size, size), dtype=np.int8)  # all up: no domain walls that take for ever to go away
    checkerboard = np.indices(spins.shape).sum(axis=0) % 2
    colours = [checkerboard == 0, checkerboard == 1]
    energy, magnetisation = np.empty(sweeps), np.empty(sweeps)
    for sweep in range(sweeps):
        for colour in colours:
            cost = 2 * spins * neighbours(spins)
            flip = colour & (rng.random(spins.shape) < np.exp(-cost / temperature))
            spins[flip] *= -1
        energy[sweep] = -0.5 * np.sum(spins * neighbours(spins), dtype=np.int64)
        magnetisation[sweep] = np.sum(spins, dtype=np.int64)
    return energy, magnetisation


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--temperature", type=float, required=True)
parser.add_argument("--seed", type=int, required=True)
parser.add_argument("--size", type=int, default=16, help="spins along one side")
parser.add_argument("--sweeps", type=int, default=3000, help="measured after as many as a fifth of them")
args = parser.parse_args()

warm_up = args.sweeps // 5
energy, magnetisation = simulate(
    args.size, args.temperature, warm_up + args.sweeps, np.random.default_rng(args.seed)
)
energy, magnetisation = energy[warm_up:], np.abs(magnetisation[warm_up:])
count = args.size**2
result = {
    "temperature": args.temperature,
    "energy": energy.mean() / count,
    "magnetisation": magnetisation.mean() / count,
    "heat_capacity": energy.var() / (count * args.temperature**2),
    "susceptibility": magnetisation.var() / (count * args.temperature),
}
print(json.dumps({name: round(value, 5) for name, value in result.items()}))
