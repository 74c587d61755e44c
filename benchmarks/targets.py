"""What the library promises about its speed, each held against the measurements."""

from collections.abc import Iterator

from report import Results, table, verdict
from tables import HEADLINE, Row, all_cores, by_x, find, find_one

SMALL, LARGE = 20_000, 1_000_000
SMALL_SHAPE, LARGE_SHAPE = [4, 8, 8, 40], [16, 32, 32, 64]

# The targets of the redesign, at all cores and in float32: what is held against what, at
# which shape, in which way, and the most that the ratio of their times may be.
REDESIGN = [
    ("chandrop", "mlx.nn", SMALL_SHAPE, "eager", 0.80),
    ("chandrop layer", "mlx.nn", SMALL_SHAPE, "eager", 1.25),
    ("chandrop", "floor of MLX", LARGE_SHAPE, "eager", 1.18),
    ("chandrop", "mlx.nn", HEADLINE, "gradient", 1.00),
    # The machine sets this one: nothing that returns an array takes less time.
    ("floor of MLX", "mlx.nn", SMALL_SHAPE, "eager", None),
]
MOST_OF_IMPORT = 0.5
TITLES = {
    "chandrop": "`dropout2d`",
    "chandrop layer": "the layer `Dropout2d`",
    "mlx.nn": "`mlx.nn.Dropout2d`",
    "floor of MLX": "`x * 2`",
    "gradient": "compiled, with its gradient",
}


def of_redesign(results: Results) -> str:
    """The table of the redesign's targets."""
    rows = []
    for name, other, shape, way, most in REDESIGN:
        wanted = {"shape": shape, "dtype": "float32", "way": way}
        seconds = find_one(results, cores=all_cores(results), **wanted)
        ratio = seconds[name] / seconds[other]
        at = f"{by_x(shape)}, {TITLES.get(way, way)}"
        target = (
            ["", "no target"] if most is None else [f"{most:.2f}", verdict(ratio <= most)]
        )
        rows.append([TITLES[name], TITLES[other], at, target[0], f"{ratio:.2f}", target[1]])
    seconds = results["imports"]
    ratio = seconds["chandrop.nn"] / seconds["mlx.nn"]
    at = "a new process, mlx.nn first"
    imports = ["`import chandrop.nn`", "`import mlx.nn`", at]
    rows.append(
        [
            *imports,
            f"{MOST_OF_IMPORT:.2f}",
            f"{ratio:.2f}",
            verdict(ratio <= MOST_OF_IMPORT),
        ]
    )
    return table(rows, ["time of", "over that of", "at", "at most", "measured", ""])


def targets(results: Results) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Yields each target: what is compared, the most it may be, and the ratio per case."""
    cores = all_cores(results)

    def ratio(way: str, other: str, dtype: str = "float32", cores: int = cores) -> float:
        seconds = find_one(results, cores=cores, shape=HEADLINE, dtype=dtype, way=way)
        return seconds["chandrop"] / seconds[other]

    yield "mlx.nn, eager", 0.70, {"": ratio("eager", "mlx.nn")}
    yield "mlx.nn, compiled", 0.45, {"": ratio("compiled", "mlx.nn")}
    after_relu = {"": ratio("compiled after relu", "mlx.nn")}
    yield "mlx.nn, compiled after relu", 0.15, after_relu
    halves = {d: ratio("eager", "mlx.nn", dtype=d) for d in ("float16", "bfloat16")}
    yield "mlx.nn, eager, 16 bits", 0.60, halves

    eager = find(results, cores=cores, dtype="float32", way="eager")
    large = [row for row in eager if row["elements"] >= LARGE]
    plain = {by_x(row["shape"]): of_floor(row) for row in large if is_plain(row)}
    yield (
        "`x * 2`, eager, from 10^6 elements, at least 32 channels, mask at most 1 %",
        1.2,
        plain,
    )
    other = {
        by_x(row["shape"]): of_floor(row, beside_draw=True)
        for row in large
        if not is_plain(row)
    }
    yield "`x * 2`, elsewhere from 10^6 elements, beside the draw alone", 1.3, other

    if find(results, cores=1):
        yield "torch, eager, one core", 1.15, {"": ratio("eager", "torch", cores=1)}
        yield "JAX, jit, one core", 1.15, {"": ratio("compiled", "JAX", cores=1)}

    small = [row for row in eager if row["elements"] < SMALL and "mlx.nn" in row["seconds"]]
    for kind, most in (("chandrop", 1.1), ("chandrop layer", 1.5)):
        cases = {
            by_x(row["shape"]): row["seconds"][kind] / row["seconds"]["mlx.nn"]
            for row in small
        }
        yield f"mlx.nn, eager, 10^4 elements: {kind}", most, cases

    memory = results["peak_memory"]["chandrop"] / results["peak_memory"]["input"]
    yield "peak memory beside the input, in inputs", 1.01, {"": memory}


def of_floor(row: Row, beside_draw: bool = False) -> float:
    seconds = row["seconds"]
    draw = seconds["draw"] if beside_draw else 0.0
    return (seconds["chandrop"] - draw) / seconds["floor of MLX"]


def is_plain(row: Row) -> bool:
    mask = row["shape"][0] * row["shape"][-1]
    return row["shape"][-1] >= 32 and mask <= row["elements"] / 100


def of_all(results: Results) -> str:
    """The table of all other targets, each at its worst."""
    rows = []
    for against, most, cases in targets(results):
        worst = max(cases, key=lambda case: cases[case])
        cells = [f"{most:.2f}", f"{cases[worst]:.2f}", worst]
        rows.append([against, *cells, verdict(cases[worst] <= most)])
    return table(rows, ["time of chandrop over that of", "at most", "worst", "at", ""])
