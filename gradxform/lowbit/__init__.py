"""`gradxform.lowbit`: states and weights in fewer bits, that forget and move as they should."""

from .._core.numerics import stochastic_round as stochastic_round
from . import bitsandbytes as bitsandbytes
from .master import exact_master as exact_master, master_params as master_params
from .quantized import dequantized as dequantized, quantized as quantized, requantized as requantized
from .stored import Quantized as Quantized
from .validate import check_lowbit as check_lowbit
from .verdict import LowbitReport as LowbitReport, LowbitRow as LowbitRow, LowbitUnfit as LowbitUnfit
