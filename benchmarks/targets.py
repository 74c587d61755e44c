"""What the library promises about its speed, each held against the measurements."""

from collections.abc import Iterator

from tables import HEADLINE, SMALL, Measurements, Row
from tabulate import tabulate

LARGE = 1_000_000


def targets(measurements: Measurements) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Gives each target: what is compared, the most it may be, and the ratio per case."""
    headline = {"cores": measurements.all_cores, "shape": HEADLINE}

    def ratio(way: str, other: str, name: str = "chandrop", **wanted: object) -> float:
        (row,) = measurements.find(**({"dtype": "float32", "way": way} | headline | wanted))
        return row["seconds"][name] / row["seconds"][other]

    yield "mlx.nn, eager", 0.70, {"": ratio("eager", "mlx.nn")}
    yield "mlx.nn, compiled", 0.45, {"": ratio("compiled", "mlx.nn")}
    after_relu = {"": ratio("compiled after relu", "mlx.nn")}
    yield "mlx.nn, compiled after relu", 0.15, after_relu
    halves = {d: ratio("eager", "mlx.nn", dtype=d) for d in ("float16", "bfloat16")}
    yield "mlx.nn, eager, 16 bits", 0.60, halves

    eager = measurements.find(cores=measurements.all_cores, dtype="float32", way="eager")
    large = [row for row in eager if row["elements"] >= LARGE]
    plain = {name(row): of_floor(row) for row in large if is_plain(row)}
    yield (
        "`x * 2`, eager, from 10^6 elements, at least 32 channels, mask at most 1 %",
        1.2,
        plain,
    )
    other = {
        name(row): of_floor(row, beside_draw=True) for row in large if not is_plain(row)
    }
    yield "`x * 2`, elsewhere from 10^6 elements, beside the draw alone", 1.3, other

    if any(row["cores"] == 1 for row in measurements.rows):
        yield "torch, eager, one core", 1.15, {"": ratio("eager", "torch", cores=1)}
        yield "JAX, jit, one core", 1.15, {"": ratio("compiled", "JAX", cores=1)}

    small = [row for row in eager if row["elements"] < SMALL and "mlx.nn" in row["seconds"]]
    for kind, most in (("chandrop", 1.1), ("chandrop layer", 1.5)):
        cases = {
            name(row): row["seconds"][kind] / row["seconds"]["mlx.nn"] for row in small
        }
        yield f"mlx.nn, eager, 10^4 elements: {kind}", most, cases

    memory = measurements.peak_memory["chandrop"] / measurements.peak_memory["input"]
    yield "peak memory beside the input, in inputs", 1.01, {"": memory}


def name(row: Row) -> str:
    return "x".join(map(str, row["shape"]))


def of_floor(row: Row, beside_draw: bool = False) -> float:
    seconds = row["seconds"]
    draw = seconds["draw"] if beside_draw else 0.0
    return (seconds["chandrop"] - draw) / seconds["floor of MLX"]


def is_plain(row: Row) -> bool:
    mask = row["shape"][0] * row["shape"][-1]
    return row["shape"][-1] >= 32 and mask <= row["elements"] / 100


def table(measurements: Measurements) -> str:
    rows = []
    for against, most, cases in targets(measurements):
        worst = max(cases, key=lambda case: cases[case])
        verdict = "met" if cases[worst] <= most else "missed"
        rows.append([against, f"{most:.2f}", f"{cases[worst]:.2f}", worst, verdict])
    headers = ["time of chandrop over that of", "at most", "worst", "at", ""]
    return tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
