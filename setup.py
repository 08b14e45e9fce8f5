"""Package metadata: everything comes from settings.ini, except the version, which nbdev keeps in the package."""
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(here / "settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
lines = lambda key: settings[key].strip().splitlines()
version = re.search(r'__version__ = "(.+)"', (here / "clfm_kit" / "__init__.py").read_text(encoding="utf-8"))[1]

extras = {name: [f"{settings['name']}-{name}{settings['plugin_range']}"] for name in settings["plugins"].split()}
extras |= {
    "demo": lines("demo_requirements"), "notebook": lines("notebook_requirements"),
    "tune": lines("tune_requirements"), "export": lines("export_requirements"),
}
extras |= {
    "all": sorted({line for requirements in extras.values() for line in requirements}),
    "dev": lines("dev_requirements"),
}

setup(
    name=settings["name"], version=version, description=settings["description"], author=settings["author"],
    license_expression=settings["license"], license_files=["LICENSE", "NOTICE"], keywords=settings["keywords"].split(),
    classifiers=lines("classifiers"),
    long_description=(here / "README.md").read_text(encoding="utf-8"), long_description_content_type="text/markdown",
    python_requires=f">={settings['min_python']}", install_requires=lines("requirements"), extras_require=extras,
    packages=find_packages(include=["clfm_kit", "clfm_kit.*"]), package_dir={"": "."},
    package_data={"clfm_kit": ["py.typed", "shipped/*.json", "shipped/**/*.jsonl", "shipped/**/README.md"]},
    entry_points={
        "console_scripts": ["clfm = clfm_kit.cli.main:main"], "clfm_kit": ["clfm-kit = clfm_kit.builtin.plugin"]
    },
)
