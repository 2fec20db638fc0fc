"""How the logarithm of a run time depends on a job's arguments: a small regression, in plain Python.

A forward selection in the manner of MARS (Friedman, Annals of Statistics 19, 1991): from a pool of `terms`
the one that explains most is taken, then the next, as long as that is worth its price. A number gives x, log
x and bends of both, so exponential growth, power laws and what begins flat are lines; a category gives an
effect to each of its values; what has been taken may get another slope in each category. The price is that of
the extended Bayesian information criterion (Chen and Chen, Biometrika 95, 2008), by which columns that do not
matter stay outside.

Terms are made orthogonal by Gram and Schmidt, so each new one costs little, and the leverage of a point is
the sum of its squares. Pure numbers; what is learned when, and what for, is in `forecast`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, log, sqrt
from operator import mul

from pisa_fab.terms import (
    Z95,
    Arguments,
    Bend,
    Beyond,
    Both,
    Guard,
    Level,
    Line,
    New,
    Term,
    Within,
    beyond,
    number,
    student95,
)

MOST_TERMS = 15  # beside the constant
MOST_COLUMNS = 24  # that are looked at
MOST_CANDIDATES = 64  # that are compared at a time
MOST_BENT = 4  # numbers that may have bends
MOST_LEVELS = 64  # values of a category that has effects
FEW_LEVELS = 12  # of a number that may be a code for something
CROSSED_LEVELS = 6  # of a category in each value of which a number may have another slope
KNOTS = (0.25, 0.5, 0.75, 0.875)  # of the distinct values: where a bend may be
NOISE = 0.02  # relative: two runs of one job are taken to differ by so much at least
PRIOR = 0.4  # what the deviation is taken for before anything is known, with the weight of one observation
COLLINEAR = 1e-6  # a term of which less is new (of its square) is none
# What the best of many terms may explain though it means nothing, in variances: so much, and with few degrees
# of freedom so many times (1 + FEW / freedom) as much.
CHANCE = 16.0
FEW = 20.0
CARRIED_ON = 1.0  # ranges of what was seen: further outside of it nothing gets longer or shorter
WIDEST = log(1000.0)  # of a bound above what is expected
BIN = 50  # observations that a bound is taken from
MOST_BINS = 8
ALIKE = 1e-6  # what is fitted differs by less

Vector = list[float]
Point = tuple[float, float, float]  # fitted, residual, leverage


# ----------------------------------------------------------------------------------------------------
# The model
# ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job's logarithm is expected to be.

    Attributes:
        log: of the median. Outside of what was seen slopes are carried on with care: as far as they are more
            than chance, and not too far.
        hunch: the same with all slopes carried on as they are.
        width: added to it, the bound that 95 % keep.
        smear: by which the mean is above the median (Duan, Journal of the American Statistical Association
            78, 1983).
    """

    log: float
    hunch: float
    width: float
    smear: float


class Model:
    """A regression that has been made; `estimate` asks it."""

    def __init__(self, search: _Search) -> None:
        self.terms: tuple[Term, ...] = tuple(search.terms)
        self._first = 1 / sqrt(search.count)
        self._parts = list(zip(search.terms, search.triangle, search.norms, strict=True))
        self._weights = search.weights
        self._freedom = max(3.0, 1 + search.count - search.used)
        self._edges: list[float] = []
        self._bins: list[tuple[float, float]] = []  # width and smear
        self._guards = search.guards()
        self._numbers = [guard for guard in self._guards if isinstance(guard, Beyond)]
        # How much of each term is taken for more than chance (the positive part of James and Stein's factor,
        # Fourth Berkeley Symposium 1, 1961).
        variance = sum(map(mul, search.residual, search.residual)) / self._freedom + NOISE**2
        chance = CHANCE * (1 + FEW / self._freedom) * variance
        self._sure = [max(0.0, 1 - chance / weight**2) if weight else 0.0 for weight in self._weights]
        self._spread(search)

    def _spread(self, search: _Search) -> None:
        """Find how far observations are from what is fitted; where they are many, short and long jobs apart.

        Their distances are as if each had not been learned (leave one out: residual over 1 - leverage), so
        the quantile is one that a new job keeps whatever the distribution is (Vovk, Gammerman and Shafer,
        Algorithmic Learning in a Random World, 2005), and no less than that of the normal one.
        """
        fitted = [y - e for y, e in zip(search.logs, search.residual, strict=True)]
        leverage = [sum(q[i] * q[i] for q in search.basis) for i in range(search.count)]
        points = sorted(zip(fitted, search.residual, leverage, strict=True), key=lambda point: point[0])
        share = max(0.1, 1 - search.used / search.count)
        for part in _parts(points):
            squares = sum(e * e + NOISE**2 for _, e, _ in part)
            deviation = sqrt((PRIOR**2 + squares) / (1 + share * len(part)))
            width = student95(self._freedom) * deviation
            if len(part) >= 20:
                left_out = sorted(e / max(0.1, 1 - h) for _, e, h in part)
                width = max(width, left_out[min(len(part), ceil(0.95 * (len(part) + 1))) - 1])
            smear = sum(exp(min(e, WIDEST)) for _, e, _ in part) / len(part)
            self._bins.append((width, min(max(smear, 1.0), 20.0)))
            self._edges.append(part[-1][0])
        self._edges.pop()

    def estimate(self, arguments: Arguments) -> Estimate:
        """Give what a job with these arguments is expected to take."""
        point = self._point(arguments)
        y = hunch = sum(map(mul, self._weights, point))
        unknown = sum(guard.doubt(arguments) for guard in self._guards)
        # Only what is in doubt can be outside; there are far more jobs that are not.
        if unknown and (nearest := self._moved(arguments, 0.0)) is not arguments:
            near, further = self._point(nearest), self._moved(arguments, CARRIED_ON)
            point = point if further is arguments else self._point(further)
            steps = zip(self._weights, self._sure, near, point, strict=True)
            y = sum(weight * (z + sure * (far - z)) for weight, sure, z, far in steps)
        leverage = sum(map(mul, point, point))
        for term in self.terms:
            if isinstance(term, Level) and arguments.get(term.column) not in term.effects:
                unknown += term.doubt
        width, smear = self._bins[bisect_left(self._edges, y)]
        return Estimate(y, hunch, min(WIDEST, sqrt(width**2 * (1 + leverage) + Z95**2 * unknown)), smear)

    def _point(self, arguments: Arguments) -> Vector:
        """Give a job's coordinates in the basis."""
        point = [self._first]
        for term, row, norm in self._parts:
            point.append((term.value(arguments) - sum(map(mul, row, point))) / norm)
        return point

    def _moved(self, arguments: Arguments, ranges: float) -> Arguments:
        """Give arguments whose numbers are no further outside of what was seen than so many of its ranges."""
        moved = {guard.column: guard.moved(arguments, ranges) for guard in self._numbers}
        found = {column: text for column, text in moved.items() if text is not None}
        return {**arguments, **found} if found else arguments


def fit(rows: Sequence[Arguments], logs: Sequence[float]) -> Model:
    """Find what the logarithms depend on; at least one row."""
    search = _Search(rows, logs)
    search.go()
    return Model(search)


# ----------------------------------------------------------------------------------------------------
# The search
# ----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Candidate:
    term: Term
    raw: Vector
    left: Vector  # of `raw`: what is orthogonal to all that has been taken
    size: float  # the square of `raw` without its mean
    square: float  # of `left`


class _Search:
    """A selection under way: the terms taken, an orthonormal basis of them, and what is left unexplained."""

    def __init__(self, rows: Sequence[Arguments], logs: Sequence[float]) -> None:
        self.rows, self.logs, self.count = rows, logs, len(rows)
        self.residual = list(logs)
        self.terms: list[Term] = []
        self.basis: list[Vector] = []
        self.triangle: list[Vector] = []  # of each term: its shares of the basis before it
        self.norms: Vector = []  # and of its own
        self.weights: Vector = []
        self.used = 0.0  # degrees of freedom
        self._pool: list[_Candidate] = []
        self._levels: list[str] = []  # columns whose values may have effects of their own
        names = list(dict.fromkeys(name for row in rows for name in row))[:MOST_COLUMNS]
        self._values = {name: [row.get(name) for row in rows] for name in names}
        self._numbers: dict[str, list[float | None]] = {}
        for name, values in self._values.items():
            read = [number(value) for value in values]
            if all(x is not None or v is None for x, v in zip(read, values, strict=True)):
                self._numbers[name] = read

    def go(self) -> None:
        """Take all that is worth it."""
        self._append([1.0] * self.count, [1.0] * self.count)
        distinct = {name: len(set(values)) for name, values in self._values.items()}
        able = [name for name, n in distinct.items() if 1 < n <= min(MOST_LEVELS, self.count // 2)]
        for name, numbers in self._numbers.items():
            if distinct[name] > 1:
                self._offer_lines(name, numbers)
        self._offer_bends()
        self._levels = [name for name in able if name not in self._numbers]
        self._crossed = [n for n in able if distinct[n] <= CROSSED_LEVELS]
        self._take_while_worth_it()
        # Only after its lines: where a number is more than a code, they know what the next value will bring.
        self._levels += [name for name in able if name in self._numbers and distinct[name] <= FEW_LEVELS]
        self._take_while_worth_it()

    def guards(self) -> list[Guard]:
        """Give what looks whether a job is like those that were seen."""
        found: list[Guard] = []
        with_effects = {term.column for term in self.terms if isinstance(term, Level)}
        for name, values in self._values.items():
            seen = frozenset(values)
            known = sorted({x for x in self._numbers.get(name, ()) if x is not None})
            if len(known) > 1:
                found.append(beyond(name, known))
            elif len(seen) <= self.count // 2 and name not in with_effects:
                found.append(New(name, seen))
        return found

    # --- the pool ---

    def _offer(self, term: Term, raw: Vector) -> None:
        mean = sum(raw) / self.count
        size = sum(map(mul, raw, raw)) - mean * mean * self.count
        left = self._without_basis(raw)
        square = sum(map(mul, left, left))
        if size > 0 and square > COLLINEAR * size and len(self._pool) < MOST_CANDIDATES:
            self._pool.append(_Candidate(term, raw, left, size, square))

    def _offer_lines(self, name: str, numbers: Sequence[float | None]) -> None:
        known = [x for x in numbers if x is not None]
        least = min(known)
        for logarithmic in (False, True) if least > 0 else (False,):
            seen = [log(x) for x in known] if logarithmic else known
            scale = (max(seen) - min(seen)) / 2
            if scale > 0:
                term = Line(name, logarithmic, sum(seen) / len(seen), scale, least)
                self._offer(term, [term.value(row) for row in self.rows])

    def _offer_bends(self) -> None:
        """Give those numbers bends that explain most by themselves."""
        worth: dict[str, float] = defaultdict(float)
        lines = [c for c in self._pool if isinstance(c.term, Line)]
        for candidate in lines:
            assert isinstance(candidate.term, Line)
            column = candidate.term.column
            worth[column] = max(worth[column], self._gain(candidate.left, candidate.square))
        bent = sorted(worth, key=lambda column: -worth[column])[:MOST_BENT]
        for candidate in lines:
            if isinstance(candidate.term, Line) and candidate.term.column in bent:
                for bend in _bends(candidate.term, candidate.raw):
                    self._offer(bend, [max(0.0, x - bend.knot) for x in candidate.raw])

    def _offer_crossed(self, taken: Term) -> None:
        """Offer what a term that was taken may be together with others."""
        if not isinstance(taken, Line | Bend):
            return
        line = taken if isinstance(taken, Line) else taken.line
        kin: list[tuple[Line | Bend, Vector]] = []
        for candidate in self._pool:
            of = candidate.term.line if isinstance(candidate.term, Bend) else candidate.term
            if isinstance(of, Line) and of.column == line.column and isinstance(candidate.term, Line | Bend):
                kin.append((candidate.term, candidate.raw))
        kin.append((taken, [taken.value(row) for row in self.rows]))
        for name in self._crossed:
            if name != line.column:
                self._offer_within(name, kin)
        if isinstance(taken, Line):
            for other in [term for term in self.terms if isinstance(term, Line)]:
                if other.column != taken.column:
                    both = Both(taken, other)
                    self._offer(both, [both.value(row) for row in self.rows])

    def _offer_within(self, name: str, kin: Sequence[tuple[Line | Bend, Vector]]) -> None:
        values = self._values[name]
        for level in dict.fromkeys(values):
            if values.count(level) >= 5:
                for term, raw in kin:
                    here = [x if v == level else 0.0 for x, v in zip(raw, values, strict=True)]
                    self._offer(Within(name, level, term), here)

    # --- taking ---

    def _gain(self, vector: Vector, square: float) -> float:
        """Give by how much the sum of squares gets less when a vector of this square is taken."""
        along: float = sum(map(mul, vector, self.residual))
        return along * along / square

    def _take_while_worth_it(self) -> None:
        while len(self.terms) < MOST_TERMS:
            floor = self.count * NOISE**2
            rest = sum(map(mul, self.residual, self.residual)) + floor
            choices = len(self._pool) + len(self._levels)
            if not choices:
                return
            found: tuple[float, _Candidate, float] | None = None
            levels = [level for name in self._levels if (level := self._level(name))]
            for candidate, cost in [*((candidate, 1.0) for candidate in self._pool), *levels]:
                free = self.count - self.used - cost - 1
                if free < 1:
                    continue
                less = max(rest - self._gain(candidate.left, candidate.square), floor)
                score = free * log(rest / less) - cost * log(self.count) - 2 * log(choices + 1)
                if score > 0 and (found is None or score > found[0]):
                    found = score, candidate, cost
            if found is None:
                return
            _, candidate, cost = found
            self.terms.append(candidate.term)
            self._append(candidate.raw, candidate.left, cost)
            self._offer_crossed(candidate.term)

    def _append(self, raw: Vector, left: Vector, cost: float = 1.0) -> None:
        """Take a vector into the basis, out of the residual and out of the pool."""
        norm = sqrt(sum(map(mul, left, left)))
        unit = [x / norm for x in left]
        if self.basis:
            self.triangle.append([sum(map(mul, q, raw)) for q in self.basis])
            self.norms.append(norm)
        self.basis.append(unit)
        self.weights.append(sum(map(mul, unit, self.residual)))
        self.residual = _minus(self.residual, self.weights[-1], unit)
        self.used += cost
        for candidate in self._pool:
            share = sum(map(mul, unit, candidate.left))
            candidate.left = _minus(candidate.left, share, unit)
            candidate.square -= share * share
        self._pool = [c for c in self._pool if c.square > COLLINEAR * c.size]

    def _without_basis(self, raw: Vector) -> Vector:
        left = raw
        for unit in self.basis:
            left = _minus(left, sum(map(mul, unit, left)), unit)
        return left

    def _level(self, name: str) -> tuple[_Candidate, float] | None:
        """Give the effects of a column's values on what is unexplained, and the price of them.

        The less is known of a value, the smaller is its effect.

        The variance between and within is that of the one-way analysis of variance, the shrinking is
        Buehlmann's (Experience rating and credibility, ASTIN Bulletin 4, 1967).
        """
        values = self._values[name]
        groups: dict[str | None, list[float]] = defaultdict(list)
        for value, e in zip(values, self.residual, strict=True):
            groups[value].append(e)
        count, kinds = self.count, len(groups)
        if count - self.used - kinds < 1:
            return None
        total = sum(sum(group) ** 2 / len(group) for group in groups.values())
        within = (sum(map(mul, self.residual, self.residual)) - total) / (count - kinds) + NOISE**2
        typical = (count - sum(len(group) ** 2 for group in groups.values()) / count) / (kinds - 1)
        between = (total / (kinds - 1) - within) / typical
        if between <= 0:
            return None
        ratio = within / between
        effects = {value: sum(group) / (len(group) + ratio) for value, group in groups.items()}
        cost = max(1.0, sum(len(group) / (len(group) + ratio) for group in groups.values()) - 1)
        raw = [effects[value] for value in values]
        left = self._without_basis(raw)
        size, square = sum(map(mul, raw, raw)), sum(map(mul, left, left))
        if square <= COLLINEAR * size:
            return None
        return _Candidate(Level(name, effects, between), raw, left, size, square), cost


def _bends(line: Line, raw: Vector) -> list[Bend]:
    """Give the places where a line may bend: there are several values on both sides."""
    distinct = sorted(set(raw))
    if len(distinct) < 5:
        return []
    places = dict.fromkeys(min(int(part * len(distinct)), len(distinct) - 3) for part in KNOTS)
    return [Bend(line, distinct[place]) for place in places if place > 0]


def _parts(points: Sequence[Point]) -> list[Sequence[Point]]:
    """Cut points, sorted by what is fitted, into parts of about one size; what is fitted alike stays."""
    wanted = min(MOST_BINS, max(1, len(points) // BIN))
    cuts = [0]
    for index in range(1, wanted):
        cut = max(cuts[-1] + BIN, len(points) * index // wanted)
        while cut < len(points) and points[cut][0] - points[cut - 1][0] < ALIKE:
            cut += 1
        if cut <= len(points) - BIN // 2:
            cuts.append(cut)
    return [points[begin:end] for begin, end in zip(cuts, [*cuts[1:], len(points)], strict=True)]


def _minus(vector: Vector, factor: float, unit: Vector) -> Vector:
    return [x - factor * u for x, u in zip(vector, unit)]  # noqa: B905 - this is where the time goes
