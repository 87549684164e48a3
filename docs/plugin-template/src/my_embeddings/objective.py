"""An objective of one's own: positives are pulled together, the vectors of a batch are kept apart."""

from embedkit.objectives import LossOutput, NegativeCount, Objective


class SquaredDistance(Objective):
    """Mean squared distance of positives plus `spread` times the mean cosine of different anchors."""

    def __init__(self, spread: float = 1.0) -> None:
        super().__init__()
        self.spread = spread

    def forward(self, embeddings, batch):
        anchor, positive = (z / z.norm(dim=1, keepdim=True) for z in (embeddings["anchor"], embeddings["positive"]))
        near = (anchor - positive).square().sum(dim=1).mean()
        apart = (anchor.sum(dim=0).square().sum() - len(anchor)) / (len(anchor) * (len(anchor) - 1))
        return LossOutput((near + self.spread * apart) * batch.share)

    def negatives(self, batch_size, hard, processes):
        return NegativeCount(in_batch=batch_size - 1, hard=0, other_processes=0)
