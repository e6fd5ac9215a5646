"""Find the packages of both trees: `jaxformers/` is the library, `kernels/` is imported as `jaxformers.kernels`."""

from setuptools import find_packages, setup

library = find_packages(include=["jaxformers", "jaxformers.*"])
kernels = ["jaxformers.kernels", *(f"jaxformers.kernels.{name}" for name in find_packages("kernels"))]

setup(packages=library + kernels, package_dir={"jaxformers": "jaxformers", "jaxformers.kernels": "kernels"})
