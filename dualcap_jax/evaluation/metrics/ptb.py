"""The words of a caption as COCO-caption has them, without its Java program.

Equal to what `PTBTokenizer` of pycocoevalcap 1.2 leaves: it runs `edu.stanford.nlp.process.PTBTokenizer -preserveLines
-lowerCase` of Stanford CoreNLP 3.4.1, and drops punctuation. The rules here were found by asking that program how it
cuts some millions of captions and strings; its grammar was not consulted.
"""

import re
from collections.abc import Iterator
from string import ascii_lowercase
from unicodedata import category

# COCO-caption's list also has "-LRB-" and the like, in vain: words are lower-cased by then, so brackets stay.
_PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})


def tokenize(caption: str) -> list[str]:
    """Cut a caption into words.

    The Java program reads captions one a line, and where one ends in "art.", "no." or "B." it looks at the next before
    it decides whether the full stop belongs to the word. Here a caption is the only line of its file, ended by a line
    break. Line breaks in it count as spaces, which in COCO-caption is true of "\\n" alone: the likes of "\\r" would
    make two lines of it, and misplace all captions that follow.

    Args:
        caption: Any text; what the Java program takes neither for a word nor for a sign, such as emoji, is left out.

    Returns:
        The words, lower-cased; none where there is only punctuation. " ".join gives the string that COCO-caption
        scores. A few words have no-break spaces in them (5 1/2, telephone numbers, HTML's tags): its BLEU and CIDEr,
        which use `str.split`, part these once more, its ROUGE doesn't.

    Source: pycocoevalcap 1.2, `pycocoevalcap/tokenizer/ptbtokenizer.py`, by what it answers.
    """
    if _PLAIN_CAPTION.fullmatch(caption):
        words = caption.lower().replace(",", " ").split()
        if _NOT_PLAIN.isdisjoint(words):
            return [word for each in words if (word := each.rstrip("."))]
    line = " ".join(filter(None, map(_spell, _tokens(caption)))).rstrip()  # an address may end in a no-break space
    return [word for word in line.split(" ") if word and word not in _PUNCTUATION]


def _tokens(caption: str) -> Iterator[str]:
    text = caption.translate(_LINE_BREAKS).rstrip(" \t") + "\n"
    position = 0
    while position < len(text):
        plain = _PLAIN_WORD.match(text, position)
        if plain and plain[1].lower() not in _SPLIT_WORDS:
            yield plain[1]
            position = plain.end()
        elif longest := _longest_match(text, position):
            token = longest.lastindex or 0
            yield longest[token]
            position = longest.end(token)
        else:
            position += 1


def _longest_match(text: str, position: int) -> re.Match[str] | None:
    if text[position] in " \t\n":
        return None
    rules = _WORD_RULES if _STARTS_WORD.match(text, position) else _SIGN_RULES
    matches = [match for rule in rules if (match := rule.match(text, position))]
    return max(matches, key=lambda match: match.end(), default=None)


def _spell(token: str) -> str:
    word = token.lower()
    if word.isalpha():
        return word
    if token in _SPELLINGS:
        return _SPELLINGS[token]
    if _CONTRACTION.fullmatch(word):
        return word.replace("&apos;", "'").translate(_SPELLED_QUOTES)
    if _QUOTES.fullmatch(word):
        return word.translate(_SPELLED_QUOTES)
    if _FIRM.fullmatch(token):
        return word.replace("&amp;", "&")
    if not word.endswith(">"):  # not a tag
        word = word.replace("(", "-lrb-").replace(")", "-rrb-")
    return word.replace(" ", "\xa0").replace("\xad", "")


# Abbreviations keep their full stop.
_TITLES = """adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens ft
gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof profs pvt rep reps
rev sen sens sfc sgt spc st ste supt supts treas vs wm"""
_ENDINGS = """al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec ed.d esq est etc ext
feb fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla penn ph.d
plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo"""
_NOT_IN_CAPITALS = "mfg mtg ppte pptes ppty pptys pte ptes pty ptys"
_CAPITALIZED = "ark az del ill la mass miss ore pa tex wash"
_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop"
_ABBREVIATIONS = " ".join((_TITLES, _ENDINGS, _NOT_IN_CAPITALS, _CAPITALIZED, _BEFORE_NUMBERS)).split()
# After one of these an initial loses its full stop.
_SENTENCE_STARTS = """A About According Additionally After An As At But Earlier He Her Here However If In It Last Many
More Mr. Ms. Now Once One Other Our She Since So Some Such That The Their Then There These They This We What When While
Yet You"""
_APOSTROPHE_WORDS = "cap'n c'est c'mon e'er ev'ry li'l nat'l nor'easter ol' s'mores"
_SPLIT_WORDS = {"cannot": "(can)not", "gimme": "(gim)me", "gonna": "(gon)na", "gotta": "(got)ta"}
_SPLIT_WORDS |= {"lemme": "(lem)me", "wanna": "(wan)na"}


def _any_of(words: str) -> str:
    return "|".join(map(re.escape, words.split()))


# The program deletes what 16 bits don't hold.
_BEYOND_16_BITS = "\U00010000-\U0010ffff"
_NUMERALS = "".join(each for each in map(chr, range(0x10000)) if category(each) in ("Nl", "No"))
# Accents and vowel signs that may stand in a word; the program's own choice, like that of signs.
_MARKS = (
    "\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u036f\u0375\u0378\u0379\u0384\u0385\u03f6\u0483-\u0487"
    "\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06e4"
    "\u06e7-\u06ed\u06fd\u06fe\u070f\u0711\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e"
    "\u0951-\u0955\u0962\u0963\u0981-\u0983\u09bc\u09be-\u09c4\u09c7\u09c8\u09cb-\u09cd\u09d7\u09e2\u09e3\u0a01-\u0a03"
    "\u0a3c\u0a3e-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf\u0b82\u0bbe-\u0bc2\u0bc6-\u0bc8\u0bca-\u0bcd\u0c01-\u0c03"
    "\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd"
    "\u1885\u1886"
)
# Signs that are a word each; others are deleted.
_SIGNS = (
    r"!-/:-@\[-`{-~\x80\x85\x91-\x94\x96\x97\xa1-\xa9\xab-\xb9\xbb-\xbf\xd7\xf7\u037e\u0387\u0589\u05be\u05c0\u05c3"
    r"\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d\u07f6-\u07f8"
    r"\u0964\u0965\u0e3f\u0e4f\u1fbd\u2013-\u2023\u2026\u2030-\u203b\u203e-\u2042\u2044\u2070\u2074-\u207e"
    r"\u2080-\u208e\u20a0\u20a4\u20ac\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127"
    r"\u2129\u212e\u213a\u213b\u2140-\u2144\u214a-\u214d\u214f\u2153-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb"
    r"\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6"
)
_QUOTE_SPELLINGS = {"\u2018\u201b\u2039\x91": "`", "\u2019\u203a\x92": "'"}
_QUOTE_SPELLINGS |= {"\u201c\xab\x93": "``", "\u201d\xbb\x94": "''"}

# Stand in the rules by name, in braces.
_PARTS = {
    "alphanumeric": rf"[^\W_{_NUMERALS}{_BEYOND_16_BITS}]",
    "letter": rf"[^\W\d_{_NUMERALS}{_BEYOND_16_BITS}]|\xad",
    "accented": f"[{_MARKS}]|&(?ai:[aeiou](?:acute|grave|uml));",
    "initial": "{letter}|{accented}",
    "character": r"{alphanumeric}|\xad|{accented}",
    "space": r"[ \t\n\xa0\u2000-\u200a\u3000]",
    "hyphen": r"[-_\u058a\u2010\u2011]",
    "apostrophe": r"['\u2019\x92]|&apos;",
    "any_apostrophe": r"['`\u2018\u2019\u201b\x91\x92]|&apos;",
    "quote": "[`\u201a\u201e\u201f" + "".join(_QUOTE_SPELLINGS) + "]",
    "contraction": r"(?ai:{apostrophe}(?:[sdm]|ll|re|ve))",
    "ascii_hyphenated": r"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-[A-Za-z0-9\xad]+)+",
    "hyphenated_part": r"(?:[dloDLO]{any_apostrophe}{alphanumeric})?{alphanumeric}+",
    "hyphenated": r"{hyphenated_part}(?:{hyphen}{hyphenated_part})*",
    "dotted": r"{initial}{character}*(?:[.!?]{initial}{character}*)+",
    "firm": r"[A-Z]+(?:(?:&amp;|&|\+)[A-Z]+)+",
    "name": r"[A-Za-z][A-Za-z0-9_.:-]*",
    "tag": r"<(?:{name}(?: +{name}(?: *= *(?:\"[^\"\n]*\"|'[^'\n]*'))?)* */? *|/{name} *|[!?][A-Za-z-][^>\n]*)>",
    "mail": r"[A-Za-z0-9][^ \t\n\xa0\"<>|(){}]*@[^ \t\n\xa0\"<>|(){}.]+(?:\.[^ \t\n\xa0\"<>|(){}.]+)*>?",
    "address_end": r"[^ \t\n\"!(),.<>?{|}-]",
    "path": r"/[^ \t\n\"()<>|]+{address_end}",
    "site": r"(?:[^ \t\nA-Z!\"$'(),./0-9:;<=>?@\[\\\]^_`{|}-]+\.)+(?ai:com|net|org|edu)(?:{path})?",
    "number": r"[-+]?(?:\d+|[.,:\u066b\u066c]\d+)(?:[.,:\u066b\u066c]\d+)*",
    "sentence_start": f"{_any_of(_SENTENCE_STARTS)}|{_any_of(_SENTENCE_STARTS.upper())}|{{tag}}",
    "title": f"(?ai:{_any_of(_TITLES)})",
    "ending": f"(?ai:{_any_of(_ENDINGS)})|(?![A-Z]{{2}})(?ai:{_any_of(_NOT_IN_CAPITALS)})"
    f"|(?=[A-Z])(?ai:{_any_of(_CAPITALIZED)})",
    "before_number": f"(?ai:{_any_of(_BEFORE_NUMBERS)})",
    "extension": "bat|bmp|c|cgi|class|cpp|dll|docx?|exe|gif|gz|html?|h|jar|java|jpe?g|mov|mp3|pdf|php|p[lsy]|png|ppt|"
    "sql|tar|txt|wav|x|xml|zip",
}


def _compile(pattern: str) -> re.Pattern[str]:
    while (expanded := re.sub(r"\{([a-z_]{2,})\}", lambda part: f"(?:{_PARTS[part[1]]})", pattern)) != pattern:
        pattern = expanded
    return re.compile(pattern)


# The longest match wins, of equally long ones the first. Where a rule has a group, the group is the token: the rest of
# the match only speaks for the rule.
_WORD_RULES = [
    _compile(pattern)
    for pattern in (
        f"(?ai:{'|'.join(_SPLIT_WORDS.values())})",
        # Abbreviations and initials.
        r"(?=[A-Za-z]+\.){title}\.",
        r"(?=[A-Za-z.]+\.)({ending}\.)(?:-.|.(?!{accented})\W|.|\n)",
        r"((?ai:non-u\.s)){space}",
        r"(?=[A-Za-z]+\.)({before_number}\.){space}?\d",
        r"([A-Za-z])\.{space}+{sentence_start}{space}",
        r"[A-Za-z](?:\.[A-Za-z])*\.",
        r"({dotted}|{alphanumeric}+){contraction}",
        # Plain words, and those with hyphens, slashes and full stops.
        r"{initial}{character}*",
        r"{dotted}",
        r"{hyphenated}",
        r"{ascii_hyphenated}",
        r"[A-Za-z0-9][A-Za-z0-9.,\xad]*(?:-{alphanumeric}+)*-[A-Za-z]\.(?:[A-Za-z]\.)+(?:-{alphanumeric}+)*",  # 6-p.m.
        r"(?=[^ ]+\.[,:;、])((?:{initial}{character}*|{dotted}|{hyphenated}|{ascii_hyphenated}|{firm})\.)[,:;、]",
        r"[A-Za-z0-9]+(?:-[A-Za-z]+){,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){,2}){1,2}",
        # Contractions and other words with an apostrophe.
        r"([A-Za-z\xad]*[A-MO-Za-mo-z\xad])[nN]{any_apostrophe}[tT]",
        r"[nN]{any_apostrophe}[tT]",
        r"((?ai:more)){apostrophe}[nN]",
        r"[dloDLO]{any_apostrophe}{alphanumeric}{2,}",  # o'clock
        r"[A-HJ-XZn]{any_apostrophe}{letter}{2,}",
        r"{letter}+[aeiouyAEIOUY]{any_apostrophe}[aeiouA-Z]{letter}*",  # ma'am
        r"{letter}*[oO]{any_apostrophe}[oO]{letter}*",
        f"(?ai:{_any_of(_APOSTROPHE_WORDS)})".replace("'", "{apostrophe}"),
        r"[dljDLJ]{apostrophe}",
        r"([yY]{apostrophe}){letter}",  # y' all
        r"{firm}",
        r"[A-Z]+\$|[Cc]\+\+|[CcFf]#",
        r"x_[-^x=~<>']",
        # Numbers, fractions, dates, telephone numbers.
        r"{number}",
        r"(?:\d{1,4}[- \xa0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}",
        r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",
        r"(?:\d{2,4}[- \xa0])?\d{2,4}[- \xa0]\d{3,4}[- \xa0]?\d{3,5}",
        # Addresses and files.
        r"{mail}",
        r"(?ai:https?)://[^ \t\n\"()<>{}|]+{address_end}",
        r"(?ai:www)\.(?:[^ \t\n\"(),<>{}|.!?]+\.)+[A-Za-z]{2,4}",
        r"(?ai:www)\.(?:[^ \t\n\"(),<>{}|.!?]+\.)+?[A-Za-z]{2,4}{path}",
        r"{site}",
        r"({alphanumeric}+(?:\.{alphanumeric}+)*\.(?ai:{extension}))[\s.,!?]",
    )
]
_SIGN_RULES = [
    _compile(pattern)
    for pattern in (
        r"{number}",
        r"(?:\(\d{2,3}\)[ \xa0]?|(?:\+\+?\d{2,4}[- \xa0])?(?:\+\+?)?\d{2,4}[- \xa0])\d{3,4}[- \xa0]?\d{3,5}",
        r"{tag}",
        r"(?:<|&lt;){mail}",
        r"{site}",
        r"@[A-Za-z_][A-Za-z0-9_]*",
        r"#{initial}+",
        # Apostrophes that open a word, and those that open a quotation.
        r"('[tT])(?ai:is|was)",
        r"(?ai:'n{apostrophe}|(?:[\u2019\x92]|&apos;)n{apostrophe}?|{apostrophe}(?:em|till?|cause))",
        r"('[nN])[ \t\n\xa0]",
        r"(')[A-Za-z]{2}",
        r"{contraction}",
        r"((?ai:'(?:ll|re|ve)))[^A-Za-z]",
        r"({apostrophe}[0-9]{2}){space}",
        r"{apostrophe}[2-9]0[sS]",  # '90s
        # Emoticons.
        r"([<>]?[:;=][-o'*]?[()\[\]{|\\DPdpO@])[^A-Za-z0-9]",
        r"[-^x=~<>']_[-^x=~<>']|\((?:[-^x=~<>'][_.]?[-^x=~<>']|[\^x=~<>']-[\^x=~<>'])\)",
        # Runs of signs, and signs alone.
        r"\.{3,5}|\.(?: \.){2,4}",
        r"-{2,}|[?!]+|\*+|(?:\\\*){1,3}|#+|@+|_+|<<|>>|''",
        r"{quote}{1,2}",
        r"[⁺⁻₊₋]?(?:[²³¹⁰⁴-⁹]+|[₀-₉]+)",
        r"&(?:(?ai:lt|gt|quot|apos|amp|nbsp|mdash|ndash)|#[0-9]+);",
        f"[{_SIGNS}]",
    )
]
_SPELLINGS = {
    **{"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", '"': "''"},
    **{"£": "#", "€": "$", "¤": "$", "\x80": "$", "\u20a0": "$", "¢": "cents"},
    **{"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"},
    **{"&quot;": "''", "&apos;": "'"},
    **{
        f"&{case(name)};": sign
        for name, sign in {"lt": "<", "gt": ">", "amp": "&", "nbsp": "", "mdash": "--", "ndash": "--"}.items()
        for case in (str.lower, str.upper, str.title)
    },
    **dict.fromkeys(["---", "----", "\u2013", "\u2014", "\u2015", "\x96", "\x97"], "--"),
    **dict.fromkeys(["....", ".....", ". . .", ". . . .", ". . . . .", "\u2026", "\x85"], "..."),
}
_STARTS_WORD = _compile("{character}")
_CONTRACTION = _compile("n{any_apostrophe}t|{contraction}")
_QUOTES = _compile("{quote}{1,2}")
_FIRM = _compile("{firm}")
_SPELLED_QUOTES = {ord(quote): spelling for quotes, spelling in _QUOTE_SPELLINGS.items() for quote in quotes}
_LINE_BREAKS = str.maketrans(dict.fromkeys("\n\r\v\f\u2028\u2029", " "))

# Most captions have but ASCII words, with full stops and commas behind them.
_PLAIN_CAPTION = re.compile(r"\s*(?:(?:[A-Za-z]+[.,]?|[.,])(?:\s+|$))*")
_PLAIN_WORD = re.compile(r"([A-Za-z]+),? *[ \n]")
_NOT_PLAIN = {*_SPLIT_WORDS, *(f"{word}." for word in (*_ABBREVIATIONS, *_SPLIT_WORDS, *ascii_lowercase))}
