from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import ModelConfig
from models.log import Log
from schemas.errors import BadInput
from tests.models.conftest import item_update, user_event
