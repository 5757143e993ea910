import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomap import names
from geomap.errors import NameNotFoundError, RecordsError
from geomap.names import (
    ENGLISH_SYNONYMS,
    SPLITS,
    SYNONYMS,
    accepted,
    canonical,
    is_species,
    name_index,
    nearest,
    normalise,
    resolve,
    synonyms_of,
)

TABLE = pd.DataFrame(
    {
        "scientificName": [
            "Spinus lawrencei",
            "Spinus tristis",
            "Festuca perennis",
            "Carex arctata",
            "Poa secunda",
        ],
        "vernacularName": ["Lawrence's Goldfinch", "American Goldfinch", None, "Drooping Sedge", "Bluegrass"],
        "synonyms": [
            "Carduelis lawrencei",
            "",
            ["Lolium italicum"],
            None,
            "Bluegrass nevadensis; Poa scabrella",
        ],
    }
)


@pytest.mark.parametrize(
    "spelling",
    [
        "Lawrence’s Goldfinch",
        "lawrence's  goldfinch",
        "LAWRENCE`S GOLDFINCH",
        "Lawrence´s Goldfinch",
        "lawrences-goldfinch",
        " Lawrences_Goldfinch\u00a0",
    ],
)
def test_spellings_of_one_name_are_the_same_name(spelling):
    assert normalise(spelling) == "lawrences goldfinch"


def test_accents_do_not_matter():
    assert normalise("Rüppell's Starling") == normalise("Ruppells starling")


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@pytest.mark.parametrize(
    ("found", "name"),
    [
        ("Eschscholzia californica Cham.", "Eschscholzia californica"),
        ("ESCHSCHOLZIA CALIFORNICA", "Eschscholzia californica"),
        ("eschscholzia californica", "Eschscholzia californica"),
        ("eschscholzia_californica", "Eschscholzia californica"),
        ("Amsinckia menziesii (Lehm.) A.Nelson & J.F.Macbr.", "Amsinckia menziesii"),
        ("Amsinckia menziesii var. intermedia (Fisch. & C.A.Mey.) Ganders", "Amsinckia menziesii intermedia"),
        ("Centromadia pungens (Hook. & Arn.) Greene subsp. laevis B.G.Baldwin", "Centromadia pungens laevis"),
        ("Eschscholzia californica maritima", "Eschscholzia californica maritima"),
        ("Poa annua L. f. aurea Hack.", "Poa annua aurea"),
        ("Larus (Leucophaeus) atricilla Linnaeus, 1758", "Larus atricilla"),
        ("Opuntia ficus-indica (L.) Mill.", "Opuntia ficus-indica"),
        ("Rosa canina de Vries", "Rosa canina"),
    ],
)
def test_canonical_leaves_genus_species_and_rank_below(found, name):
    assert canonical(found) == name
    assert is_species(found)


@pytest.mark.parametrize(
    "found",
    [
        "",
        "-",
        "Trifolium sp",
        "Bromus sp.",
        "Bromus spp.",
        "Caloplaca",
        "Quercus × macdonaldii",
        "Quercus ×macdonaldii",
        "×Elyhordeum macounii",
        "Quercus agrifolia x wislizeni",
        "Quercus cf. agrifolia",
        "Empidonax alnorum/traillii",
        "Aechmophorus occidentalis / clarkii",
        "unid. Empidonax",
        "hybrid Mallard",
        "Western Grebe",
        "BOLD:AAA1234",
        "Poa secunda?",
    ],
)
def test_what_is_no_species_has_no_canonical_name(found):
    assert canonical(found) == ""
    assert not is_species(found)


@given(
    st.text(max_size=40)
    | st.from_regex(r"[A-Z][a-z]{2,8} [a-z]{2,8}( (var|subsp)\. [a-z]{2,8})?", fullmatch=True)
)
def test_canonical_twice_changes_nothing(text):
    assert canonical(canonical(text)) == canonical(text)


def test_synonyms_lead_to_a_name_that_is_no_synonym_itself():
    assert len(SYNONYMS) > 200
    assert not set(SYNONYMS) & set(SYNONYMS.values())
    for name in [*SYNONYMS, *SYNONYMS.values(), *SPLITS.values(), *(name for name, _ in SPLITS)]:
        assert canonical(name) == name


@pytest.mark.parametrize(
    ("old", "today"),
    [
        ("Carduelis lawrencei", "Spinus lawrencei"),
        ("Dendroica petechia", "Setophaga petechia"),
        ("Oreothlypis celata", "Leiothlypis celata"),
        ("Vermivora pinus", "Vermivora cyanoptera"),  # not the Pine Warbler, Setophaga pinus
        ("Dendroica pinus", "Setophaga pinus"),
        ("Carduelis pinus", "Spinus pinus"),
        ("Picoides pubescens", "Dryobates pubescens"),
        ("Carpodacus mexicanus", "Haemorhous mexicanus"),
        ("Lolium multiflorum", "Festuca perennis"),
        ("Vulpia myuros", "Festuca myuros"),
        ("Dendroica coronata auduboni", "Setophaga coronata auduboni"),
        ("Chamaea fasciata", "Chamaea fasciata"),
    ],
)
def test_older_names_lead_to_todays(old, today):
    assert accepted(old) == today


def test_a_split_name_is_decided_by_the_english_one():
    assert accepted("Circus cyaneus", "Northern Harrier") == "Circus hudsonius"
    assert accepted("Circus cyaneus", "Hen Harrier") == "Circus cyaneus"
    assert accepted("Circus cyaneus") == "Circus cyaneus"


def test_synonyms_of_is_the_other_way_round():
    assert synonyms_of("Spinus lawrencei") == ("Carduelis lawrencei",)
    assert synonyms_of("Chamaea fasciata") == ()


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("Spinus lawrencei", 0),
        ("spinus LAWRENCEI", 0),
        ("spinus-lawrencei", 0),
        ("Carduelis lawrencei", 0),
        ("Lawrence’s Goldfinch", 0),
        ("Carduelis tristis (Linnaeus, 1758)", 1),
        ("Lolium multiflorum", 2),
        ("Lolium italicum", 2),
        ("Poa scabrella", 4),
        ("bluegrass", 4),
    ],
)
def test_resolve_finds_scientific_names_synonyms_and_common_names(query, row):
    assert resolve(query, TABLE) == row
    assert resolve(query, TABLE, name_index(TABLE)) == row


def test_resolve_finds_a_row_under_its_older_name():
    old = TABLE.assign(scientificName=["Carduelis lawrencei", *TABLE["scientificName"][1:]], synonyms="")
    assert resolve("Spinus lawrencei", old) == 0


def test_resolve_knows_english_names_both_ways():
    for new, old in ENGLISH_SYNONYMS.items():
        for name, query in ((old, new), (new, old)):
            table = pd.DataFrame({"scientificName": ["Perisoreus canadensis"], "vernacularName": [name]})
            assert resolve(query, table) == 0


@pytest.mark.parametrize(
    "query", ["Carex arcta", "Carex", "Spinus lawrenci", "Festuca perennis minor", "Goldfinch", ""]
)
def test_resolve_takes_no_prefix_and_no_near_miss(query):
    with pytest.raises(NameNotFoundError):
        resolve(query, TABLE)


def test_a_near_miss_is_suggested():
    with pytest.raises(NameNotFoundError) as caught:
        resolve("Spinus lawrenci", TABLE)
    assert "Did you mean Spinus lawrencei" in caught.value.change
    assert nearest("Lawrences Goldfinsh", TABLE["vernacularName"].dropna())[0] == "Lawrence's Goldfinch"


def test_an_ambiguous_common_name_is_refused_with_the_candidates():
    table = pd.DataFrame(
        {
            "scientificName": ["Codium fragile", "Xylaria polymorpha"],
            "vernacularName": ["Dead man's fingers", "dead man’s fingers"],
        }
    )
    with pytest.raises(RecordsError, match="Codium fragile, Xylaria polymorpha"):
        resolve("Dead Man's Fingers", table)


def test_names_load_neither_torch_nor_dask():
    import subprocess
    import sys

    code = "import sys, geomap.names; sys.exit(bool({'torch', 'distributed', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_plants_whose_records_bring_no_english_name_are_found_by_it():
    table = pd.DataFrame({"scientificName": ["Avena barbata", "Eschscholzia californica", "Quercus nova"]})
    assert names.resolve("california POPPY", table) == 1
    assert names.english_of("Eschscholzia californica") == "California Poppy"
    assert names.english_of("Quercus nova") == ""


def test_english_names_are_one_each_of_todays_names():
    with names.ENGLISH_FILE.open(encoding="utf-8") as lines:
        rows = [tuple(line.rstrip("\n").split(",")) for line in lines][1:]
    scientific, english = zip(*rows, strict=True)
    assert all(names.accepted(names.canonical(name)) == name for name in scientific)
    assert len({names.normalise(name) for name in english}) == len(rows) == len(set(scientific))
