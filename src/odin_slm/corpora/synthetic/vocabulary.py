"""Names for the synthetic corpus: drugs, diseases and symptoms, common ones and endlessly many invented ones.

Single words are international nonproprietary names and everyday clinical terms; everything else is put together from
syllables and word parts, so that many names of a test document do not occur in training.
"""

from __future__ import annotations

import hashlib
import random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_COMMON_DRUGS = _words(
    """
    amiodarone amoxicillin aspirin atenolol atorvastatin azithromycin bupropion captopril carbamazepine carboplatin
    cefazolin ciprofloxacin cisplatin clonidine clozapine cyclosporine dapsone diazepam diclofenac digoxin diltiazem
    doxorubicin enalapril erythromycin fluconazole fluoxetine furosemide gabapentin gentamicin glipizide haloperidol
    heparin hydralazine ibuprofen imatinib indomethacin insulin isoniazid ketamine lamotrigine levodopa lidocaine
    lisinopril lithium lorazepam metformin methadone methotrexate metoprolol minocycline morphine naproxen nifedipine
    omeprazole ondansetron paclitaxel paroxetine phenytoin prednisone propofol propranolol quinidine rifampicin
    risperidone ritonavir sertraline simvastatin sulfasalazine tacrolimus tamoxifen theophylline tramadol vancomycin
    verapamil vincristine warfarin zidovudine
    """
)

_DRUG_ONSETS = _words(
    """
    al ami ba bel bri cal cela cor da dex dor el eva fa fen flo gal gli ib ila jo ke kel la lumi lor ma mel mo na ne
    nor ol ori pal pra que ra rem ro sal sel so ta tel tra ul uro va vel vi wen xa yal za zel zo
    """
)
_DRUG_MIDDLES = _words(
    """
    ba ca cla da de do fe ga gi la le li lo ma me mi mo na ne ni no pa pe ra re ri ro sa se si ta te ti to va ve vo
    za
    """
)
_DRUG_STEMS = _words(
    """
    amide azole barbital caine cillin citabine conazole cycline dipine dronate floxacin fibrate gatran gliptin grel
    lukast mab micin mustine nidazole olol oxetine parin platin prazole pril profen rubicin sartan setron sone statin
    terol thiazide tinib triptan vastatin vir xaban zepam zodone zolamide
    """
)

_COMMON_SYMPTOMS = (
    "nausea", "vomiting", "rash", "pruritus", "dizziness", "headache", "fatigue", "palpitations", "tremor", "insomnia",
    "drowsiness", "dry mouth", "blurred vision", "constipation", "diarrhea", "chest pain", "abdominal pain", "fever",
    "muscle cramps", "tinnitus", "dyspnea", "cough", "syncope", "confusion", "agitation", "hallucinations", "chills",
    "hiccups", "weight gain", "weight loss", "hair loss", "loss of appetite", "loss of taste", "flushing", "sweating",
    "hoarseness", "double vision", "muscle weakness", "urinary retention", "night sweats", "vertigo", "lethargy",
)  # fmt: skip
_SYMPTOM_SITES = _words(
    """
    abdominal ankle axillary back buccal calf cervical elbow epigastric eyelid facial finger flank foot gingival groin
    hand hip jaw knee labial lingual lip lumbar nasal neck ocular oral palmar pelvic perianal periorbital pharyngeal
    plantar pretibial rectal scalp shoulder thigh thoracic toe truncal vaginal wrist
    """
)
_SYMPTOM_FINDINGS = _words(
    """
    bleeding blistering burning cramps discoloration dryness erythema itching numbness pain paresthesia rigidity spasm
    stiffness swelling tenderness tingling twitching ulceration weakness
    """
)

_COMMON_DISEASES = (
    "hypertension", "asthma", "epilepsy", "psoriasis", "diabetes mellitus", "rheumatoid arthritis", "tuberculosis",
    "migraine", "schizophrenia", "osteoporosis", "multiple sclerosis", "breast cancer", "lung cancer", "anemia",
    "atrial fibrillation", "heart failure", "malaria", "pneumonia", "Parkinson's disease", "bipolar disorder",
    "ulcerative colitis", "hypothyroidism", "gout", "glaucoma", "sepsis", "thrombocytopenia", "neutropenia",
    "renal failure", "hepatic failure", "hyponatremia", "hyperkalemia", "hypoglycemia", "pulmonary embolism",
)  # fmt: skip
_ORGAN_ROOTS = _words(
    """
    aden angi arteri arthr bronch cardi cholecyst chondr col cyst dermat duoden encephal enter esophag gastr gingiv
    hepat irid kerat laryng lymphaden mast mening my myel myocard nephr neur oophor ophthalm oste ot pancreat pericard
    phleb pleur prostat ret rhin sial spondyl stomat synov tendin thyroid trache ureter urethr uve vascul
    """
)
_DISEASE_SUFFIXES = ("itis", "opathy", "osis", "odystrophy", "osclerosis", "omalacia")
_DISEASE_QUALIFIERS = _words(
    """
    atrophic autoimmune bullous congenital cystic eosinophilic familial fibrosing granulomatous hemorrhagic
    idiopathic interstitial ischemic juvenile lymphocytic membranous necrotizing obstructive ossifying paraneoplastic
    polymorphic pustular relapsing sclerosing septic stenosing toxic ulcerative vesicular viral
    """
)
_ORGANS = _words(
    """
    adrenal aortic biliary bladder cardiac cerebral colonic corneal coronary endometrial gastric hepatic hypophyseal
    laryngeal mesenteric mitral ovarian pancreatic parathyroid pulmonary renal retinal splenic testicular thyroid
    tracheal uterine ventricular
    """
)
_ORGAN_DISEASES = _words(
    """
    adenoma aneurysm atrophy cancer carcinoma dysfunction dysplasia failure fibrosis hemorrhage hyperplasia
    hypertrophy infarction insufficiency lymphoma necrosis obstruction rupture sarcoma stenosis thrombosis
    """
)
_NAME_ONSETS = _words(
    """
    Al Bar Bren Cal Dal Dor Es Fal Gren Hal Hol Jen Kar Kest Lan Mar Mel Nor Ost Per Ros Sel Tar Ul Vel Wal Zel
    """
)
_NAME_ENDS = _words(
    """
    bach berg dal der feld gren hart holm lund man mark nitz quist ren rose sen sten strom ton vik wick
    """
)
_TOXICITY_ROOTS = ("cardio", "derma", "hepato", "myelo", "nephro", "neuro", "oto", "pulmo", "retino", "vasculo")


def drug(rng: random.Random) -> str:
    """Return a drug's name: every second one is common, the others are invented around a stem."""
    if rng.random() < 0.5:
        return rng.choice(_COMMON_DRUGS)
    middle = rng.choice(_DRUG_MIDDLES) if rng.random() < 0.6 else ""
    return rng.choice(_DRUG_ONSETS) + middle + rng.choice(_DRUG_STEMS)


def symptom(rng: random.Random) -> str:
    """Return a symptom: a finding that a patient feels or shows."""
    if rng.random() < 0.6:
        return rng.choice(_COMMON_SYMPTOMS)
    return f"{rng.choice(_SYMPTOM_SITES)} {rng.choice(_SYMPTOM_FINDINGS)}"


def disease(rng: random.Random) -> str:
    """Return a disease."""
    draw = rng.random()
    if draw < 0.5:
        return rng.choice(_COMMON_DISEASES)
    if draw < 0.7:
        return f"{rng.choice(_ORGANS)} {rng.choice(_ORGAN_DISEASES)}"
    if draw < 0.9:
        name = rng.choice(_ORGAN_ROOTS) + rng.choice(_DISEASE_SUFFIXES)
        return name if rng.random() < 0.5 else f"{rng.choice(_DISEASE_QUALIFIERS)} {name}"
    eponym = rng.choice(_NAME_ONSETS) + rng.choice(_NAME_ENDS)
    return rng.choice((f"{eponym} syndrome", f"{eponym}'s disease", f"{eponym} disease"))


def toxicity(rng: random.Random) -> str:
    """Return a toxicity of an organ, as it stands right after a drug's name: "cisplatin nephrotoxicity"."""
    return rng.choice(_TOXICITY_ROOTS) + "toxicity"


def coordinated(rng: random.Random) -> tuple[str, str, str]:
    """Return a composite mention and its two parts: "renal and hepatic failure", "renal failure", "hepatic failure"."""
    first, second = rng.sample(_ORGANS, 2)
    noun = rng.choice(_ORGAN_DISEASES)
    return f"{first} and {second} {noun}", f"{first} {noun}", f"{second} {noun}"


def abbreviation(name: str, rng: random.Random) -> str:
    """Return an abbreviation: the initials of several words, or three letters of a single one."""
    words = [word for word in name.replace("-", " ").split() if word[0].isalpha()]
    if len(words) > 1:
        return "".join(word[0] for word in words).upper()
    letters = [letter for letter in name[1:] if letter.isalpha() and letter not in "aeiou"] or list(name[1:])
    chosen = sorted(rng.sample(range(len(letters)), min(2, len(letters))))
    return (name[0] + "".join(letters[position] for position in chosen)).upper()


def concept_id(name: str) -> str:
    """Return an identifier in the form of a MeSH id, the same for the same name; MeSH uses no such long numbers."""
    digest = int(hashlib.sha256(name.casefold().encode()).hexdigest()[:12], 16)
    return f"{'DC'[digest % 2]}9{digest // 2 % 10**7:07d}"
