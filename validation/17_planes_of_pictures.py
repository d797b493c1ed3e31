"""The planes of loss pictures: predicted and real densities, escape times, committors.

The network, the runs, what is measured and the tolerances are those of study 16; the planes are those on which losses
are drawn: through two more solutions, and along two random filter-normalised directions.
"""

from _network_planes import at_random, compare, through_solutions
from _study import main


def run(study):
    compare(study, [("three solutions", through_solutions), ("random, filter-normalised", at_random)])


if __name__ == "__main__":
    main(__file__)
