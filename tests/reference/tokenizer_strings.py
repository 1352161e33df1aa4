"""Random and adversarial strings for the comparisons of tokenizers."""

import unicodedata

from tokenizers import normalizers, pre_tokenizers

FRAGMENTS = (
    list("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789 .,;:!?'\"()[]{}<>|/\\@#$%^&*-_=+~`")
    + [" ", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\r", "\v", "\f", "\x00", "\x1f", "\x7f"]
    + ["'s", "'LL", "'Re", "'ſ", "ſ", "K", "K's", "n't", " the", " and", "ing", "Hello", "world"]
    + ["\x85", "\xa0", "\u1680", "\u180e", "\u2000", "\u200a", "\u200b", "\u200c", "\u200d"]
    + ["\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", "\u2581", "\u2581\u2581"]
    + ["é", "e\u0301", "A\u030a", "\u212b", "\u1e9b\u0323", "ﬁ", "½", "²", "①", "Ⅷ", "٣", "४", "〇"]
    + ["漢字", "日本語", "ひらがな", "カタカナ", "か\u3099", "한국어", "\u1112\u1161\u11ab", "中文。"]
    + ["привет", "Ω", "ß", "İ", "ǅ", "ʰ", "ª", "\u0301", "\u0300\u0323", "\u0483", "\u20e3"]
    + ["😀", "👩\u200d👩\u200d👧", "🇩🇪", "🏽", "\U0001f130", "\U0002f800", "\U000e0001", "\U0010ffff"]
    + ["\ufffd", "\ufffe", "\ue000", "ا", "مرحبا", "שלום", "ก็", "\u0e33", "नमस्ते", "\u0f73"]
    + ["<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im", "<tool>", "[MASK]", "word"]
    + ["<extra_id_0>", "<extra_id_99>", "<bos>", "<start_of_turn>", "<pad>"]
    + ["<0x41>", "<0xFF>", "Ġ", "Ċ", "ĠĠ", "aaaaaaaa", "        ", "0000000", "......", "\n \n \n"]
    + ["ﬃ", "㌔", "ﷺ", "ｶﾞ", "Ａｂｃ", "①②", "\u0344", "\u1100\u1161", "\uac00\u11a8", "\r\n\r\n"]
)

# Normalization mappings and combining marks new in Unicode 13 and 14: utf8proc has them, tokenizers
# does not.
NEW_MAPPINGS = [(0x0898, 0x089F), (0x08C8, 0x08D2), (0x0C3C, 0x0C3C), (0x1ABF, 0x1ACE),
                (0x1DFA, 0x1DFA), (0xAB69, 0xAB69), (0x10780, 0x107BA), (0x10EAB, 0x10EAC),
                (0x10F82, 0x10F85), (0x11070, 0x11070), (0x11930, 0x11943), (0x1FBF0, 0x1FBF9)]


def differing_characters():
    """Characters that the tables of tokenizers put into another class than Unicode 14 does.

    Its punctuation and control characters are those of Unicode 8, and letters found since have no
    lower case there or here.
    """
    clean = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    lower = normalizers.Lowercase()
    accents = normalizers.StripAccents()
    nonspacing = normalizers.BertNormalizer(
        clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
    punctuation = pre_tokenizers.Punctuation()
    words = pre_tokenizers.Whitespace()
    differing = set()
    for code in range(0x80, 0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        c = chr(code)
        category = unicodedata.category(c)
        if category == "Cn" or any(low <= code <= high for low, high in NEW_MAPPINGS):
            differing.add(c)
        elif (category[0] == "P") != (len(punctuation.pre_tokenize_str(f"a{c}b")) == 3):
            differing.add(c)
        elif category in ("Cf", "Co") and clean.normalize_str(f"a{c}b") != "ab":
            differing.add(c)
        elif category[0] == "M" and accents.normalize_str(f"a{c}b") != "ab":
            differing.add(c)
        elif (category == "Mn") != (c not in nonspacing.normalize_str(f"a{c}b")) and (
                unicodedata.normalize("NFD", c) == c):
            differing.add(c)
        elif category[0] in "LMN" and lower.normalize_str(c) != c.lower():
            differing.add(c)
        elif category[0] in "LM" and len(words.pre_tokenize_str(f"a{c}b")) != 1:
            differing.add(c)
    return differing


class Strings:
    def __init__(self, rng, corpus, left_out):
        self.rng = rng
        self.corpus = corpus
        self.left_out = left_out

    def any_text(self):
        rng, corpus = self.rng, self.corpus
        kind = rng.random()
        if kind < 0.55:
            return "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(0, 24)))
        if kind < 0.75 and corpus:
            start = rng.randrange(len(corpus))
            text = list(corpus[start : start + rng.randint(1, 200)])
            for _ in range(rng.randint(0, 3)):
                text.insert(rng.randint(0, len(text)), rng.choice(FRAGMENTS))
            return "".join(text)
        if kind < 0.9:
            chars = []
            for _ in range(rng.randint(1, 16)):
                limit = rng.choice([0x80, 0x250, 0x3000, 0x10000, 0x20000, 0x110000])
                c = rng.randrange(limit)
                chars.append(chr(c if not 0xD800 <= c < 0xE000 else 0x20))
            return "".join(chars)
        return rng.choice(FRAGMENTS) * rng.randint(1, 200)  # long pieces

    def text(self):
        """Without characters that only one of the two libraries knows.

        PCRE2 10.42 classifies characters by Unicode 14, tokenizers 0.23 by Unicode 16 and, in
        places, 8: run this with Python 3.11, whose tables are of Unicode 14 too.
        """
        return "".join(c for c in self.any_text() if c not in self.left_out)
