from __future__ import annotations

import torch

from models.baselines.cold import Cold
from models.batch import Batch
from models.config import ModelConfig


def test_user_and_product_fold_into_the_first_layer(batch: Batch, config: ModelConfig) -> None:
    """The counted online form, item times one matrix per user plus a bias, gives the model's scores."""
    model = Cold(config)
    d = config.vector_dim
    with torch.no_grad():
        inputs = model.inputs(batch, config.behaviours)
        weight, bias = model.head[0].weight, model.head[0].bias
        of_user, of_item, of_product = weight[:, :d], weight[:, d : 2 * d], weight[:, 2 * d :]
        for user in range(6):
            folded = of_item + of_product * inputs.user[user]  # [h1, d]
            first = inputs.item[user] @ folded.T + of_user @ inputs.user[user] + bias  # [C, h1]
            found = model.head[1:](first).squeeze(-1)
            torch.testing.assert_close(found, model(batch)[user], rtol=1e-4, atol=1e-5)
    assert model.online_multiply_adds() == 16 * 32 + 32 * 16 + 16
