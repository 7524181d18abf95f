"""Text in English and Korean for the tests, written for them."""

from __future__ import annotations

ENGLISH = [
    "The miller's cat slept on a sack of flour while the wheel turned.\n\nNobody woke her before noon.",
    "We don't know who painted the gate, but it was blue on Monday and green by Friday.",
    'A letter came: "Bring 12 apples, 3 pears & one honest friend." She laughed; he didn\'t.',
    "def add(a, b):\n    return a + b  # two numbers\n",
    "Rain fell on the harbour. The boats, all forty of them, turned to face the wind.",
]
KOREAN = [
    "방앗간 고양이는 물레방아가 도는 동안 밀가루 자루 위에서 잠을 잤다.\n\n아무도 깨우지 않았다.",
    "우리는 누가 대문을 칠했는지 모르지만, 월요일에는 파란색이었고 금요일에는 초록색이었다.",
    "편지가 왔다. “사과 12개, 배 3개, 그리고 정직한 친구 한 명을 데려오세요.” 그녀는 웃었다.",
    "항구에 비가 내렸다. 배 마흔 척이 모두 바람을 향해 뱃머리를 돌렸다.",
    "할머니는 옛말을 하나씩 모아 작은 공책에 적어 두셨다 ㅋㅋ 정말로!",
]
BOTH = [*ENGLISH, *KOREAN]
# What breaks careless tokenizers: letters in parts, joined emoji, spaces of all kinds, turn markers.
HARD = [
    "",
    " ",
    "  two  spaces ",
    "\n\n\t \r\n",
    "ㅎㅏㄴㄱㅡㄹ 한글 각",
    "\u1112\u1161\u11ab\u1100\u1173\u11af 가\u11a8",
    "cafe\u0301 caf\u00e9 \u212b \u2260=\u0338",
    "👩\u200d👩\u200d👧\u200d👦 🇰🇷 👍🏽 🫠",
    "\u00a0\u3000\u2028\u200b\ufeff\x00\x1c\x85",
    "<|eos|> <|user|>hi<|end|><|pad|><|unk|><|bos|>",
    "日本語 العربية हिन्दी \U0010ffff",
]
