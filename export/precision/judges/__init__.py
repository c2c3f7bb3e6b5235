"""What must stay the same in a faster file, task by task: one file each, one table."""

from collections.abc import Mapping

from dkcam.export.precision.judges.classify import Classify
from dkcam.export.precision.judges.dense import Dense
from dkcam.export.precision.judges.detect import Detect
from dkcam.export.precision.judges.judge import Judge
from dkcam.export.precision.judges.regress import Regress

JUDGES: Mapping[str, Judge] = {"classify": Classify(), "detect": Detect(), "regress": Regress(), "dense": Dense()}
