"""Write adam_by_hand.json with 50-digit decimals, rounded once to float64. Run: python make_by_hand.py

Adam, SGD and SGD with momentum, eight steps on f(w) = w^2 from w = 5 with learning rate 0.01; and the table of bias
corrections 1 - b^t. The constants are the decimals as written: 0.999, not the float64 nearest to it.
"""

import json
from decimal import Decimal, getcontext
from pathlib import Path
from typing import Any

getcontext().prec = 50
B1, B2, EPS, RATE, START, STEPS = (Decimal(x) for x in ("0.9", "0.999", "1e-8", "0.01", "5", "8"))


def adam() -> list[dict[str, Any]]:
    m, v, w = Decimal(0), Decimal(0), START
    rows = []
    for t in range(1, int(STEPS) + 1):
        g = 2 * w
        m = B1 * m + (1 - B1) * g
        v = B2 * v + (1 - B2) * g * g
        m_hat, v_hat = m / (1 - B1**t), v / (1 - B2**t)
        w -= RATE * m_hat / (v_hat.sqrt() + EPS)
        row = {"g": g, "m": m, "v": v, "m_hat": m_hat, "v_hat": v_hat, "w": w, "loss": w * w}
        rows.append({"step": t} | {k: float(x) for k, x in row.items()})
    return rows


def sgd(momentum: Decimal) -> list[dict[str, Any]]:
    buffer, w = Decimal(0), START
    rows = []
    for t in range(1, int(STEPS) + 1):
        buffer = momentum * buffer + 2 * w
        w -= RATE * buffer
        rows.append({"step": t, "trace": float(buffer), "w": float(w), "loss": float(w * w)})
    return rows


def main() -> None:
    golden = {
        "problem": {
            "f": "w^2",
            "start": 5.0,
            "learning_rate": 0.01,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "momentum": 0.9,
        },
        "adam": adam(),
        "sgd_momentum": sgd(B1),
        "sgd": sgd(Decimal(0)),
        "bias_correction": [
            {"t": t, "0.9": float(1 - B1**t), "0.999": float(1 - B2**t)} for t in (1, 5, 10, 50, 100, 1000)
        ],
        # The size of the first step over the learning rate, for any gradient (eps left out): |m_hat| / sqrt(v_hat).
        "first_step": {
            "both_corrected": 1.0,
            "neither_corrected": float((1 - B1) / (1 - B2).sqrt()),
            "only_first_moment_corrected": float(1 / (1 - B2).sqrt()),
        },
    }
    Path(__file__).with_suffix("").with_name("adam_by_hand.json").write_text(
        json.dumps(golden, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
