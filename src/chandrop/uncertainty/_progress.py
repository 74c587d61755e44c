from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """Shows a bar of `total` samples, if wanted; gives a function that moves it on."""
    if not shown:
        yield lambda samples: None
        return
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress=True needs tqdm: pip install tqdm.") from error
    with tqdm(total=total, unit="sample") as bar:
        yield bar.update
