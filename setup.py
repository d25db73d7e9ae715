"""The card simulator's library, the one thing that setup.cfg cannot declare. Without a C compiler it is left out."""

from pathlib import Path

from setuptools import Extension, setup

CARDS = Path("workers/asr_workers/cards")

setup(
    ext_modules=[
        Extension(
            "asr_workers.cards._simulator",
            sources=sorted(str(path) for path in (CARDS / "sim").glob("*.c")),
            depends=sorted(str(path) for path in CARDS.glob("*/*.h")),
            include_dirs=[str(CARDS / "include")],
            extra_compile_args=["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra"],
            libraries=["m", "pthread"],
            optional=True,
        )
    ]
)
