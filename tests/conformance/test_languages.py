"""Both engines find words in Chinese, Japanese and Korean sentences and rank their document first."""

import pytest
from sluice.errors import InvalidRequest
from sluice.retrieval.v1 import retrieval_service_pb2 as pb

from tests.conformance.engines import Place, new_name
from tests.support.retrieval import Stub, document, error_of

SENTENCES = {
    "zh": [
        "我昨天在图书馆借了一本关于机器学习的书，打算周末读完。",
        "北京的秋天天气凉爽，很多游客来这里看红叶。",
        "这家餐厅的四川火锅非常有名，每天晚上都要排队。",
        "科学家发现了一种新的方法来治疗糖尿病患者。",
        "高速铁路把上海和杭州之间的旅行时间缩短到一个小时。",
        "孩子们在公园里放风筝，老人们在树下下象棋。",
    ],
    "ja": [
        "東京都に住んでいる友達と昨日美術館に行きました。",
        "機械学習の入門書を読みながら、Pythonでプログラムを書いた。",
        "このレストランのラーメンはとても美味しいので、いつも行列ができている。",
        "新幹線で大阪から京都まで約十五分かかります。",
        "研究者たちは糖尿病の新しい治療法を発見した。",
        "公園で猫が昼寝をしているのを見かけた。",
    ],
    "ko": [
        "어제 친구와 함께 국립도서관에서 역사책을 읽었다.",
        "서울의 가을 하늘은 맑고 단풍이 아름답습니다.",
        "이 식당의 김치찌개는 매우 유명해서 항상 줄을 서야 한다.",
        "과학자들이 당뇨병을 치료하는 새로운 방법을 발견했다.",
        "고속철도를 타면 부산까지 두시간반이 걸린다.",
        "아이들이 공원에서 강아지와 놀고 있었다.",
    ],
}
# A word from the middle of a clause, and the sentence that has it.
QUERIES = {
    "zh": [("机器学习", 0), ("图书馆", 0), ("红叶", 1), ("火锅", 2), ("糖尿病", 3), ("上海和杭州", 4), ("象棋", 5)],
    "ja": [("美術館", 0), ("機械学習", 1), ("ﾗｰﾒﾝ", 2), ("京都まで", 3), ("治療法", 4), ("猫", 5), ("python", 1)],
    "ko": [("도서관", 0), ("단풍", 1), ("김치찌개", 2), ("당뇨병", 3), ("부산", 4), ("강아지", 5), ("시간", 4)],
}


async def check(language: str, stub: Stub) -> None:
    name = new_name()
    schema = pb.Schema(text_fields=[pb.TextField(name="words", language="none")])
    created = await stub.CreateCollection(pb.CreateCollectionRequest(name=name, schema=schema))
    assert created.collection.text_analysis == 2
    documents = [document(str(i), text) for i, text in enumerate(SENTENCES[language])]
    await stub.Upsert(pb.UpsertRequest(collection=name, documents=documents))
    for asked, expected in QUERIES[language]:
        query = pb.FieldQuery(text=asked, depth=10)
        found = await stub.Retrieve(pb.RetrieveRequest(collection=name, queries=[query]))
        assert list(found.rankings[0].document_ids)[:1] == [str(expected)], asked
    nothing = await stub.Retrieve(pb.RetrieveRequest(collection=name, queries=[pb.FieldQuery(text="量子", depth=10)]))
    assert not nothing.rankings[0].document_ids


async def is_refused(stub: Stub) -> None:
    schema = pb.Schema(text_fields=[pb.TextField(name="words", language="none")])
    created = stub.CreateCollection(pb.CreateCollectionRequest(name=new_name(), schema=schema))
    assert isinstance(await error_of(created), InvalidRequest)


@pytest.mark.parametrize("language", SENTENCES)
async def test_a_word_within_a_sentence_without_spaces_is_found(place: Place, language: str) -> None:
    async with place.stub() as stub:
        await (check(language, stub) if place.can.text else is_refused(stub))
