"""Write the API pages: `python docs/api.py` makes docs/api/index.html from the docstrings."""

import pkgutil
from pathlib import Path

import pdoc

import pareto_amb

FOLDER = Path(__file__).parent / "api"

# pdoc by itself leaves out what a package's __all__ does not name.
modules = [module.name for module in pkgutil.walk_packages(pareto_amb.__path__, "pareto_amb.")]
pdoc.render.configure(docformat="markdown", footer_text="pareto-amb")
pdoc.pdoc("pareto_amb", *(name for name in modules if "__main__" not in name), output_directory=FOLDER)
print(FOLDER / "index.html")
