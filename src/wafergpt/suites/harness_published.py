"""What published models reach zero-shot in tasks of lm-evaluation-harness."""

from __future__ import annotations

from typing import Any

SOURCE = "arXiv:2304.03208"
"""Dey et al., Cerebras-GPT: Open Compute-Optimal Language Models."""

TASKS = ("hellaswag", "piqa", "winogrande", "lambada_openai", "arc_easy", "arc_challenge",
         "openbook_qa")  # fmt: skip
"""The tasks of its table, all scored by ``acc``."""

_PARAMETERS = {
    "111M": 111_050_496, "256M": 255_977_024, "590M": 590_310_912, "1.3B": 1_315_723_264,
    "2.7B": 2_651_553_280, "6.7B": 6_658_404_352, "13B": 12_853_386_240,
}  # fmt: skip

_ROWS = (
    ("Cerebras-GPT", "111M", 2.6e18, (.268, .594, .488, .194, .380, .166, .118)),
    ("Cerebras-GPT", "256M", 1.3e19, (.274, .613, .511, .293, .410, .170, .158)),
    ("Cerebras-GPT", "590M", 6.1e19, (.291, .627, .498, .366, .464, .190, .158)),
    ("Cerebras-GPT", "1.3B", 2.8e20, (.325, .664, .521, .462, .508, .224, .166)),
    ("Cerebras-GPT", "2.7B", 1.1e21, (.386, .701, .559, .567, .571, .246, .206)),
    ("Cerebras-GPT", "6.7B", 6.3e21, (.447, .739, .602, .636, .643, .282, .238)),
    ("Cerebras-GPT", "13B", 2.3e22, (.513, .766, .646, .696, .714, .367, .286)),
    ("Cerebras-GPT µP", "111M", 2.6e18, (.268, .598, .519, .204, .390, .176, .124)),
    ("Cerebras-GPT µP", "256M", 1.3e19, (.274, .617, .505, .287, .427, .194, .156)),
    ("Cerebras-GPT µP", "590M", 6.1e19, (.295, .644, .517, .362, .470, .194, .172)),
    ("Cerebras-GPT µP", "1.3B", 2.8e20, (.334, .682, .512, .471, .515, .223, .196)),
    ("Cerebras-GPT µP", "2.7B", 1.1e21, (.388, .697, .557, .558, .569, .241, .218)),
)  # fmt: skip

PUBLISHED: tuple[dict[str, Any], ...] = tuple(
    {
        "name": f"{kind} {size}",
        "parameters": _PARAMETERS[size],
        "flops": flops,
        "scores": dict(zip(TASKS, scores, strict=True)),
        "source": SOURCE,
    }
    for kind, size, flops, scores in _ROWS
)
"""The family's rows; ``flops`` are as the paper counts them, embeddings and attention included."""
