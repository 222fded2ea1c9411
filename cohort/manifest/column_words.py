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
# Who works with the patient or the image: operators, physicians, referrers, readers, technicians.
STAFF = _words(
    "operator operateur operateurin operatrice operador operadora operatore bediener user username physician doctor "
    "referrer requester prescriber reader rater grader observer annotator examiner investigator technician "
    "technologist radiographer sonographer photographer nurse midwife surgeon radiologist endoscopist pathologist "
    "cardiologist dermatologist gynecologist ophthalmologist clinician practitioner provider consultant staff author "
    "signer untersucher befunder auswerter beurteiler zuweiser uberweiser einweiser einsender anforderer arzt arztin "
    "arzte prufer techniker mta mtra mtr pfleger pflegekraft hebamme chirurg radiologe pathologe fotograf benutzer "
    "examinateur examinatrice lecteur lectrice medecin docteur adresseur prescripteur technicien technicienne "
    "manipulateur infirmier infirmiere chirurgien chirurgienne radiologue echographiste utilisateur soignant "
    "explorador exploradora lector lectora medico medica doctora remitente derivante solicitante enfermero enfermera "
    "cirujano cirujana radiologo radiologa ecografista usuario tecnico esaminatore esaminatrice lettore lettrice "
    "dottore dottoressa inviante richiedente infermiere infermiera chirurgo chirurga ostetrica utente refertatore "
    "examinador examinadora leitor leitora doutor doutora enfermeiro enfermeira cirurgiao utilizador"
)
# A column with one of these words holds something about such a person, or what that person found, and no name.
_ABOUT_STAFF = _words(
    "experience year grade score rating diagnos dx specialt special level type role confidence certainty birads tirads "
    "pirads lirads opinion assessment agreement result finding age sex gender seniority training qualification rank "
    "time duration date comment blinded presence availability dependent dependence variability error measure "
    "group class category department unit phone telefon telephone mail address status volume quality kappa label "
    "erfahrung jahr jahre note bewertung beurteilung befund ergebnis alter geschlecht dauer zeit datum fachrichtung "
    "abteilung anos annees anni experiencia esperienza puntuacion especialidad specialita punteggio grado resultado "
    "risultato resultat qualite qualitat qualidade categoria model count positive negative correct"
)
_DONE_BY = frozenset(
    _words(
        "performed reported read examined operated signed acquired scanned referred reviewed graded annotated recorded "
        "requested ordered taken imaged validated confirmed"
    )
)
_TITLED = frozenset(_words("name referring reporting attending treating responsible zuweisender behandelnder"))  # Dr …
_ENDINGS = frozenset({"", *_words("s e n a o en in es as os er innen nen ns")})
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


def names_staff(name: str, *, strict: bool = False) -> str:
    """The word for staff in a column's name if the column holds names of staff; empty otherwise.

    `OperatorsName`, `Untersucher`, `médico_responsable`, `reported_by` do; `operator_experience` and `reader_diagnosis`
    do not.

    Args:
        name: of the column.
        strict: only words for staff and for ids and names count, without numbers: `reader1` among the clinical
            variables is what the first reader found.
    """
    everything = plain_words(re.sub(r"[()\[\]]", " ", name))
    about = [part for part in everything if not _staff_word(part)]
    if any(part == word or (len(word) > 3 and part.startswith(word)) for part in about for word in _ABOUT_STAFF):
        return ""
    parts = plain_words(name)
    found = {part: word for part in parts if (word := _staff_word(part))}
    if not found and "dr" in parts and _TITLED & set(parts):  # alone it may be diabetic retinopathy
        return "physician"
    if not found:
        return "staff" if len(parts) == 2 and parts[1] == "by" and parts[0] in _DONE_BY else ""
    others = [part for part in parts if part not in found]
    if strict and (re.search(r"\d", name) or not all(part in ID_WORDS or part in _SMALL for part in others)):
        return ""
    return next(iter(found.values()))


def _staff_word(part: str) -> str:
    """`operator` for `operators`, `arzt` for `Oberarzt` and `Arztname`; empty for another word."""
    if part in STAFF:
        return part
    for word in sorted(STAFF, key=len, reverse=True):
        rest = part.removeprefix(word)
        if len(word) > 3 and rest != part and (rest in _ENDINGS or rest in ID_WORDS or rest == "kurzel"):
            return word
        if (len(word) > 6 or word == "arzt") and part.endswith(word):
            return word
    return ""


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
