"""Words that clinicians head columns with, in six languages: what `init` takes a column for. Easy to extend.

A word counts where it begins a word of the column's name, without capitals and accents: `gerät` finds `Gerätetyp`.
"""

from __future__ import annotations

import re
import unicodedata


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# English, German, French, Spanish, Italian, Portuguese.
PATIENT = _words(
    "patient pat subject subj case person participant record mrn pid proband fallnummer patientin patienten "
    "patientennummer patientenid fallnr patnr patid dossier sujet caso paciente sujeto expediente historia paziente "
    "soggetto cartella prontuario"
)
ID_WORDS = _words(
    "id no nr code key number num nummer kennung numero n name vorname nom nome nombre identifier identifiant "
    "identificador identificativo codigo codice cod"
)
ACQUISITION = _words(
    "device scanner manufactur vendor model probe camera phone operator examiner reader sonographer site center "
    "centre hospital clinic view side plane protocol kernel kvp contrast sequence field version format software "
    "serial width height spacing thickness magnification stain batch year date region gerat hersteller modell sonde "
    "kamera untersucher befunder standort zentrum klinik krankenhaus ansicht seite ebene protokoll kontrast sequenz "
    "schichtdicke vergrosserung farbung charge jahr datum aufnahme appareil fabricant modele operateur examinateur "
    "lecteur hopital clinique vue cote contraste epaisseur annee dispositivo equipo escaner fabricante modelo camara "
    "operador explorador centro clinica vista lado plano secuencia espesor ano fecha sede apparecchio produttore "
    "modello fotocamera operatore esaminatore ospedale clinico lato piano sequenza spessore anno data aparelho "
    "equipamento maquina marca operadora examinador local sequencia espessura"
)
OUTCOME = _words(
    "recur relapse death died dead surviv progress outcome pregnan readmi event rezidiv ruckfall tod verstorben "
    "uberleb fortschreit schwanger ereignis recidive rechute deces mort survie grossesse evenement issue recidiva "
    "recaida muerte fallecid supervivencia embarazo evento desenlace ricaduta morte deceduto decesso sopravvivenza "
    "gravidanza esito obito sobrevida sobrevivencia gravidez desfecho"
)
SITE = _words(
    "site center centre hospital clinic institution standort zentrum klinik krankenhaus hopital clinique sede ospedale"
)
SEX = _words("sex gender geschlecht sexe genre sexo genero sesso genere")
BIRTH = _words("birth dob geburt geb naissance nacimiento nascita nascimento")
# Parts of words: these are written as one word in German (Schichtdicke, Gerätehersteller).
_WITHIN = ("gerat", "hersteller", "scanner", "kamera", "untersuch", "datum", "jahr", "kvp")


def plain_words(name: str) -> list[str]:
    """The words of a column's name without capitals and accents; what is in parentheses is no part of the name."""
    bare = re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", name)
    bare = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare).casefold().replace("ß", "ss")
    bare = "".join(c for c in unicodedata.normalize("NFD", bare) if not unicodedata.combining(c))
    return re.findall(r"[^\W\d_]+", bare)


def speaks_of(name: str, words: tuple[str, ...]) -> bool:
    """Does a word of the name begin with one of the words? Words of up to three letters must be the whole word."""
    return any(
        part == word or (len(word) > 3 and part.startswith(word)) or (word in _WITHIN and word in part)
        for part in plain_words(name)
        for word in words
    )


def names_patient(name: str) -> bool:
    """Is the column the patient's id: a word for the patient, with nothing beside it but words for an id?"""
    parts = plain_words(name)
    people = [part for part in parts if part in PATIENT]
    return bool(people) and all(part in PATIENT or part in ID_WORDS or part in _SMALL for part in parts)


_SMALL = {
    "de",
    "du",
    "des",
    "del",
    "della",
    "di",
    "do",
    "da",
    "la",
    "le",
    "el",
    "the",
    "of",
    "der",
    "study",
    "research",
}
