"""Packaging: every fact comes from settings.ini, which nbdev reads too."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_namespace_packages, setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]


def words(key: str) -> list[str]:
    """The blank-separated words of one setting."""
    return cfg.get(key, "").split()


extras = {name: words(f"{name}_requirements") for name in ("book", "eval", "hub")}
extras["dev"] = words("dev_requirements") + sum(extras.values(), [])

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    author_email=cfg["author_email"],
    url=cfg["git_url"],
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=words("keywords"),
    classifiers=[
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=f">={cfg['min_python']}",
    packages=find_namespace_packages(include=["srdd", "srdd.*"]),
    package_data={"srdd": ["py.typed", "weights/**/*", "samples/**/*"]},
    install_requires=words("requirements"),
    extras_require=extras,
    entry_points={
        "console_scripts": words("console_scripts"),
        "nbdev": ["srdd=srdd._modidx:d"],
    },
    zip_safe=False,
)
