"""A linear-chain conditional random field (Lafferty et al., ICML 2001).

A path's score is the sum of its tags' own scores and of those of each tag after another. Which tag
may not follow which is part of the ``steps``, as minus infinity. Scores are computed in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

FORBIDDEN = -1e9
"""Score of what may not follow: not infinite, so that gradients are numbers."""


def with_forbidden(transitions: Tensor, allowed: Tensor) -> Tensor:
    """Return scores ``[tags + 1, tags + 1]`` of steps from one tag to the next.

    The last row is before the first word, the last column after the last one.

    Args:
        transitions: of the same shape.
        allowed: of the same shape, true where a step may be made.
    """
    return transitions.float().masked_fill(~allowed, FORBIDDEN)


def path_scores(scores: Tensor, steps: Tensor, lengths: Tensor, tags: Tensor) -> Tensor:
    """Return the score ``[batch]`` of each sentence's path.

    Args:
        scores: ``[batch, length, tags]`` of words and tags.
        steps: ``[tags + 1, tags + 1]``, see ``with_forbidden``.
        lengths: ``[batch]`` words of each sentence, at least one.
        tags: ``[batch, length]``.
    """
    there = _there(scores, lengths)
    own = scores.float().gather(2, tags[..., None])[..., 0]
    ends = tags.gather(1, lengths[:, None] - 1)[:, 0]
    moves = steps[tags[:, :-1], tags[:, 1:]].masked_fill(~there[:, 1:], 0.0)
    return (
        own.masked_fill(~there, 0.0).sum(1) + moves.sum(1) + steps[-1, tags[:, 0]] + steps[ends, -1]
    )


def log_partition(scores: Tensor, steps: Tensor, lengths: Tensor) -> Tensor:
    """Return the logarithm ``[batch]`` of the sum over all paths of exp(score)."""
    return _forward(scores, steps, lengths)[-1].add(steps[:-1, -1]).logsumexp(1)


def losses(scores: Tensor, steps: Tensor, lengths: Tensor, tags: Tensor) -> Tensor:
    """Return the negative log-likelihood ``[batch]`` of the sentences' tags."""
    return log_partition(scores, steps, lengths) - path_scores(scores, steps, lengths, tags)


def marginals(scores: Tensor, steps: Tensor, lengths: Tensor) -> Tensor:
    """Return the probability ``[batch, length, tags]`` of each tag of each word; 0 for padding."""
    forward = torch.stack(_forward(scores, steps, lengths), 1)
    length, own = scores.shape[1], scores.float()
    after = steps[:-1, -1].expand(len(scores), -1)
    backward = [after]
    for place in range(length - 1, 0, -1):
        before = (steps[None, :-1, :-1] + (own[:, place] + backward[-1])[:, None]).logsumexp(2)
        # The last word of a shorter sentence has nothing after it.
        backward.append(torch.where((place < lengths)[:, None], before, after))
    both = forward + torch.stack(backward[::-1], 1)
    return both.softmax(2).masked_fill(~_there(scores, lengths)[..., None], 0.0)


def best_paths(scores: Tensor, steps: Tensor, lengths: Tensor) -> Tensor:
    """Return the tags ``[batch, length]`` of the path with the highest score (Viterbi, 1967).

    Padding has the tag 0.
    """
    own = scores.float()
    best, pointers = steps[-1, :-1] + own[:, 0], []
    stay = torch.arange(scores.shape[2], device=scores.device)
    for place in range(1, scores.shape[1]):
        there = (place < lengths)[:, None]
        values, before = (best[:, :, None] + steps[None, :-1, :-1]).max(1)
        best = torch.where(there, values + own[:, place], best)
        pointers.append(torch.where(there, before, stay))
    tag = (best + steps[:-1, -1]).argmax(1, keepdim=True)
    path = [tag]
    for pointer in reversed(pointers):
        path.append(pointer.gather(1, path[-1]))
    tags = torch.cat(path[::-1], 1)
    return tags.masked_fill(~_there(scores, lengths), 0)


def _forward(scores: Tensor, steps: Tensor, lengths: Tensor) -> list[Tensor]:
    """Return the log sums ``[batch, tags]`` of all paths up to each word."""
    own = scores.float()
    sums = [steps[-1, :-1] + own[:, 0]]
    for place in range(1, scores.shape[1]):
        following = (sums[-1][:, :, None] + steps[None, :-1, :-1]).logsumexp(1) + own[:, place]
        sums.append(torch.where((place < lengths)[:, None], following, sums[-1]))
    return sums


def _there(scores: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(scores.shape[1], device=scores.device) < lengths[:, None]
