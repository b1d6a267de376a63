"""Scores that others published, to stand beside a run's."""

COLUMNS = ("BLEU-4", "CIDEr-D", "METEOR", "SPICE", "ROUGE-L", "BLEU-1", "BLEU-2", "BLEU-3")
"""Of PUBLISHED, as of any table of such scores: those that are read first stand first."""

PROTOCOL = "COCO-caption protocol: Penn Treebank tokens, lower case, no punctuation"

PUBLISHED = {
    "Soft attention (Xu et al. 2015)": (24.3, None, 23.9, None, None, 70.7),
    "Hard attention (Xu et al. 2015)": (25.0, None, 23.0, None, None, 71.8),
    "ResNet-101 FC, cross entropy (self-critical.pytorch)": (None, 95.3, None, 17.9),
    "Up-Down, cross entropy (X-modaler)": (36.0, 113.1, 27.6, 20.7, None, 76.3),
    "ClipCap, MLP + GPT-2 (Mokady et al. 2021)": (32.2, 108.4, 27.1, 20.1),
    "ClipCap, transformer (Mokady et al. 2021)": (33.5, 113.1, 27.5, 21.1),
    "Oscar (as LAVIS lists it)": (40.7, 140.0, 30.6, 24.5),
    "BLIP (as LAVIS lists it)": (40.4, 136.7, 31.4, 24.3),
    "CoCa (Yu et al. 2022)": (40.9, 143.6, 33.9, 24.7),
}
"""On COCO's Karpathy test split by PROTOCOL, times 100. Nearest to a CNN trained on ImageNet with GPT-2 are ResNet-101
FC and ClipCap.

Sources: the papers named; the model zoo of github.com/ruotianluo/self-critical.pytorch; docs/notes/benchmarks.md of
github.com/YehLi/xmodaler; dataset_card/coco_caption.md of github.com/salesforce/LAVIS.
"""

ORIGINAL_CHARACTER_BLEU = (0.924, 0.798, 0.665, 0.577)
"""What the report on the original system calls BLEU-1 .. BLEU-4, of COCO val2017: averages of NLTK's sentence BLEU of
strings, so over n-grams of characters, of each order by itself."""
