"""Which free texts of a header may be kept: known makers, versions and settings, and nothing that names the patient."""

from __future__ import annotations

import re

from pellucid.cohort.identifiers.patient_identifiers import Identifiers, only_latin

# Makers of imaging devices, in lower case without punctuation. They name nobody, even if a patient is called Philips.
_MAKERS = frozenset(
    re.split(
        r"\s*\|\s*",
        """acuson | agfa | agfa healthcare | alpinion | aloka | bk medical | bruker | canon | canon medical systems |
        carestream | carestream health | carl zeiss meditec | carl zeiss meditec ag | cemax icon | dicom | elscint |
        esaote | fonar | fuji | fujifilm | fujifilm corporation | fuji photo film co ltd | ge | ge healthcare |
        ge medical systems | g e medical systems | ge vingmed ultrasound | gehc | heidelberg engineering | hitachi |
        hitachi medical corporation | hologic | hologic inc | hp | imaging dynamics company | kodak | konica minolta |
        lorad | lumenis | marconi medical systems | medison | mindray | nidek | nikon | olympus | optovue | paramed |
        philips | philips healthcare | philips medical systems | picker international | picker international inc |
        samsung | samsung medison | samsung medison co ltd | shimadzu | shimadzu corporation | siemens |
        siemens healthineers | siemens healthcare | siemens nixdorf | sonosite | sonosite inc | sony |
        supersonic imagine | swissray | terarecon | topcon | toshiba | toshiba mec | toshiba mec us | trex |
        u systems | ultrasonix | varian | varian medical systems | varian imaging laboratories | vidar |
        vidar systems corporation | villa sistemi medicali | vieworks | volcano | zeiss | zonare | apple | google |
        huawei | xiaomi | lg | oppo | oneplus | panasonic | pentax | leica | hamamatsu | aperio | 3dhistech |
        ventana | motic""",
    )
)
# Words of versions and settings that are not code-like.
_WORDS = frozenset(
    str.split(
        """syngo build release version rev revision software syst system systems package patch level service sp hotfix
    beta numaris somaris mevislab opencv dcmtk osirix gdcm adobe photoshop lightroom gimp imagemagick windows
    macintosh android ios camera gallery lightspeed brilliance aquilion somatom signa discovery optima
    revolution achieva ingenia intera skyra avanto symphony sonata aera prisma trio verio espree vida logiq
    voluson vivid acuson epiq affiniti envisor ie33 aplio xario standard soft bone lung detail edge chest head
    body abdomen sharp smooth medium filter none flat wedge butterfly strip multiple small large plus ultra
    normal high low unspecified hounsfield units"""
    )
)
_CODE = re.compile(r"[a-z]{0,3}\d{1,6}[a-z]{0,3}\d{0,4}[a-z]?|[a-z]{1,3}")
_TOKEN = re.compile(r"[^\W_]+")


def is_known(text: str) -> bool:
    """Whether a text is the name of a maker from the list."""
    return " ".join(_TOKEN.findall(text.casefold())) in _MAKERS


def may_stay(text: str, identifiers: Identifiers) -> bool:
    """Whether the name of a maker or of a model may be kept: a known one, or Latin letters without an identifier."""
    return is_known(text) or (only_latin(text) and not identifiers.in_text(text))


def is_version(text: str, identifiers: Identifiers) -> bool:
    """Whether a version or setting may be kept: words of the list and short codes such as `B31f`, no identifier."""
    if not may_stay(text, identifiers):
        return False
    return all(
        token.rstrip("0123456789") in _WORDS or _CODE.fullmatch(token) for token in _TOKEN.findall(text.casefold())
    )
