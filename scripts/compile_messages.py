"""Make django.mo, which Django reads, of django.po, which people write."""

from pathlib import Path

import polib

LOCALE = Path(__file__).parents[1] / "src/node_timeout/contrib/bamboo/locale"


def compiled(source: Path) -> bytes:
    """What belongs into the .mo file beside a .po file."""
    found: bytes = polib.pofile(str(source)).to_binary()
    return found


def main() -> None:
    for source in LOCALE.rglob("*.po"):
        source.with_suffix(".mo").write_bytes(compiled(source))


if __name__ == "__main__":
    main()
