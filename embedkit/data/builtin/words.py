"""The words of the built-in grammar: per slot a list of concepts, per concept its wordings.

The wordings of one concept stand in a row from which training shows neighbours only (see
`embedkit.data.builtin.sentences`). An action is ``active|passive``: "buys|bought".
"""

from __future__ import annotations

Concepts = tuple[tuple[str, ...], ...]

ACTORS: Concepts = (
    ("chef", "cook", "head of the kitchen"),
    ("doctor", "physician", "medic", "healer"),
    ("teacher", "instructor", "tutor"),
    ("child", "kid", "youngster", "little one"),
    ("farmer", "grower", "peasant"),
    ("sailor", "seaman", "mariner"),
    ("soldier", "trooper", "warrior", "fighter"),
    ("singer", "vocalist", "soprano"),
    ("painter", "artist", "portraitist"),
    ("thief", "burglar", "robber", "crook"),
    ("lawyer", "attorney", "solicitor"),
    ("shopkeeper", "merchant", "trader", "seller"),
    ("builder", "mason", "bricklayer"),
    ("scientist", "researcher", "scholar"),
    ("king", "monarch", "ruler", "sovereign"),
    ("neighbour", "woman next door", "man across the street"),
    ("dog", "hound", "puppy"),
    ("grandmother", "granny", "old lady"),
    ("driver", "chauffeur", "cabman"),
    ("journalist", "reporter", "correspondent"),
)

ACTIONS: Concepts = (
    ("buys|bought", "purchases|purchased", "acquires|acquired"),
    ("repairs|repaired", "fixes|fixed", "mends|mended", "restores|restored"),
    ("hides|hidden", "conceals|concealed", "tucks away|tucked away"),
    ("finds|found", "discovers|discovered", "comes across|come across", "spots|spotted"),
    ("breaks|broken", "smashes|smashed", "shatters|shattered"),
    ("cleans|cleaned", "washes|washed", "scrubs|scrubbed", "polishes|polished"),
    ("carries|carried", "hauls|hauled", "lugs|lugged"),
    ("sells|sold", "vends|vended", "gives away for money|given away for money"),
    ("watches|watched", "observes|observed", "looks at|looked at", "eyes|eyed"),
    ("draws|drawn", "sketches|sketched", "makes a picture of|pictured"),
    ("throws|thrown", "tosses|tossed", "hurls|hurled", "flings|flung"),
    ("steals|stolen", "pinches|pinched", "takes without asking|taken without asking"),
    ("describes|described", "portrays|portrayed", "tells about|told about"),
    ("moves|moved", "shifts|shifted", "pushes aside|pushed aside"),
    ("admires|admired", "adores|adored", "praises|praised", "loves|loved"),
    ("burns|burnt", "sets fire to|set on fire", "scorches|scorched"),
)

ATTRIBUTES: Concepts = (
    ("old", "ancient", "aged", "antique"),
    ("small", "little", "tiny"),
    ("big", "large", "huge", "enormous"),
    ("beautiful", "pretty", "lovely"),
    ("expensive", "costly", "precious", "dear"),
    ("cheap", "inexpensive", "low priced"),
    ("red", "crimson", "scarlet"),
    ("dirty", "filthy", "grimy", "muddy"),
    ("wet", "damp", "soaked"),
    ("strange", "odd", "peculiar", "weird"),
    ("heavy", "weighty", "massive"),
    ("new", "fresh", "recent"),
)

OBJECTS: Concepts = (
    ("car", "automobile", "vehicle"),
    ("boat", "ship", "vessel"),
    ("bicycle", "bike", "two wheeler"),
    ("house", "home", "dwelling", "residence"),
    ("sofa", "couch", "settee"),
    ("jewel", "gem", "gemstone"),
    ("letter", "note", "message", "missive"),
    ("book", "volume", "tome"),
    ("coat", "jacket", "parka", "anorak"),
    ("cup", "mug", "beaker"),
    ("lamp", "lantern", "light"),
    ("bread", "loaf", "bun"),
    ("stone", "rock", "boulder", "pebble"),
    ("bag", "sack", "pouch"),
    ("picture", "image", "photograph", "photo"),
    ("gun", "firearm", "pistol"),
    ("carpet", "rug", "mat"),
    ("flower", "blossom", "bloom"),
    ("toy", "doll", "plaything"),
    ("guitar", "string instrument", "ukulele"),
)

PLACES: Concepts = (
    ("in the garden", "in the yard", "among the flower beds"),
    ("in the forest", "in the woods", "between the trees"),
    ("on the street", "on the road", "along the avenue"),
    ("at the seaside", "on the beach", "by the ocean", "on the coast"),
    ("in the city", "in town", "downtown"),
    ("on the mountain", "on the hilltop", "near the summit"),
    ("at school", "in the classroom", "during lessons"),
    ("at the market", "at the bazaar", "between the stalls"),
    ("in the hospital", "in the clinic", "on the ward"),
    ("at the station", "on the platform", "near the railway"),
    ("in the cellar", "in the basement", "below the ground floor"),
    ("in the church", "in the chapel", "near the altar"),
    ("on the roof", "above the attic", "on top of the building"),
    ("in the restaurant", "in the diner", "at a table of the inn"),
)

SLOTS: dict[str, Concepts] = {
    "actor": ACTORS,
    "action": ACTIONS,
    "attribute": ATTRIBUTES,
    "object": OBJECTS,
    "place": PLACES,
}

FILLERS: tuple[str, ...] = (
    "as we hear",
    "it seems that",
    "once again",
    "this morning",
    "to be honest",
    "they say that",
    "today",
    "perhaps",
    "every now and then",
    "without doubt",
    "as usual",
    "last week",
)
