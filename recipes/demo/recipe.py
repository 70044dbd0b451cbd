"""Run the demo with the parameters of meta.yaml: `python recipes/demo/recipe.py`."""

from pathlib import Path

import yaml

import fluxcube as fc

if __name__ == "__main__":
    parameters = yaml.safe_load((Path(__file__).parent / "meta.yaml").read_text("utf-8"))["parameters"]
    print(fc.run_demo(**parameters, log=print).text)
