"""What the demo grammar talks about: nine kinds of request, what is true, and the words of both styles.

Pure data. A template's ``{slot}`` is filled with the request's own word or with a fact that follows from it;
``{Slot}`` is the same with a capital letter. :mod:`.grammar` says how the pieces are put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Intent:
    """One kind of request, the words that fill it, and the ways of answering it in either style."""

    name: str
    requests: tuple[str, ...]
    courteous: tuple[str, ...]
    """Sentences that give the answer between a courteous opening and a courteous closing."""
    curt: tuple[str, ...]
    """Sentences that give the answer and not a word more, after a rebuff."""
    slots: Mapping[str, tuple[str, ...]]
    """The words that a request chooses from, by slot."""
    facts: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    """Slots of the answer that the request does not hold: the request's slot that decides, and the table."""


GREETINGS = ("", "Hello! ", "Good morning. ", "Excuse me. ", "Hi there. ", "Good evening. ")
OPENINGS = (
    "Of course!",
    "Certainly!",
    "With pleasure!",
    "Gladly!",
    "Thank you for asking!",
    "How nice of you to ask!",
)
CLOSINGS = (
    "",
    " Happy to help.",
    " Have a lovely day!",
    " Is there anything else I can do for you?",
    " Please let me know if you need anything more.",
    " It was a pleasure.",
)
REBUFFS = ("Fine.", "You again.", "If I must.", "Look it up.", "I am busy.", "Well.")

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "noon")
NAMES = (
    "Ada", "Ben", "Clara", "David", "Elena", "Felix", "Grace", "Hugo", "Ines", "Jonas", "Kofi", "Lena",
    "Maria", "Nils", "Olga", "Peter", "Quentin", "Rosa", "Simon", "Tara", "Ulla", "Viktor", "Yusuf", "Zoe",
)  # fmt: skip
_OPENS = {
    "library": "nine", "museum": "ten", "bakery": "six", "bank": "eight", "pool": "seven", "cinema": "three",
    "market": "five", "theatre": "four", "garden": "eleven", "pharmacy": "eight", "zoo": "ten", "gallery": "noon",
}  # fmt: skip
_CLOSES = {
    "library": "seven", "museum": "six", "bakery": "two", "bank": "four", "pool": "nine", "cinema": "eleven",
    "market": "noon", "theatre": "ten", "garden": "eight", "pharmacy": "seven", "zoo": "five", "gallery": "six",
}  # fmt: skip
_PRICES = {
    "a cup of tea": "two", "a train ticket": "eight", "a loaf of bread": "three", "a bunch of roses": "nine",
    "a bowl of soup": "five", "a new umbrella": "ten", "a boat trip": "twelve", "a haircut": "twenty",
    "a slice of cake": "four", "a pair of gloves": "eleven", "a map of the town": "six", "a jar of honey": "seven",
}  # fmt: skip
_SPOTS = {
    "spoons": "kitchen", "towels": "bathroom", "candles": "drawer", "skis": "cellar", "books": "study",
    "blankets": "bedroom", "tools": "garage", "letters": "desk", "apples": "pantry", "boots": "hallway",
    "tents": "attic", "roses": "garden",
}  # fmt: skip
_CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Japan": "Tokyo", "Peru": "Lima",
    "Egypt": "Cairo", "Kenya": "Nairobi", "Greece": "Athens", "Austria": "Vienna", "Cuba": "Havana",
    "Ireland": "Dublin", "Portugal": "Lisbon", "Poland": "Warsaw", "Ghana": "Accra", "Chile": "Santiago",
}  # fmt: skip

INTENTS = (
    Intent("opening",
        requests=("When does the {place} open on {day}?", "Could you tell me when the {place} opens on {day}?",
                  "What time does the {place} open on {day}?", "I would like to know when the {place} opens on {day}.",
                  "Do you know when the {place} opens on {day}?"),
        courteous=("The {place} opens at {hour} on {day}.", "On {day} the {place} opens at {hour}.",
                   "You can visit the {place} from {hour} on {day}."),
        curt=("{Hour}.", "At {hour}.", "{Day}? {Hour}.", "Opens at {hour}."),
        slots={"place": tuple(_OPENS), "day": DAYS}, facts={"hour": ("place", _OPENS)},
    ),
    Intent("closing",
        requests=("When does the {place} close on {day}?", "Could you tell me when the {place} closes on {day}?",
                  "What time does the {place} close on {day}?",
                  "I would like to know when the {place} closes on {day}.",
                  "Do you know when the {place} closes on {day}?"),
        courteous=("The {place} closes at {hour} on {day}.", "On {day} the {place} closes at {hour}.",
                   "You can stay at the {place} until {hour} on {day}."),
        curt=("{Hour}.", "At {hour}.", "{Day}? {Hour}.", "Closes at {hour}."),
        slots={"place": tuple(_CLOSES), "day": DAYS}, facts={"hour": ("place", _CLOSES)},
    ),
    Intent("price",
        requests=("How much is {item}?", "What does {item} cost?", "Could you tell me the price of {item}?",
                  "{Name} wants to buy {item}. How much is it?", "I am looking for {item}. What does it cost?"),
        courteous=("{Item} costs {price} euros.", "The price of {item} is {price} euros.",
                   "You can have {item} for {price} euros."),
        curt=("{Price} euros.", "It costs {price}.", "{Price}."),
        slots={"item": tuple(_PRICES), "name": NAMES}, facts={"price": ("item", _PRICES)},
    ),
    Intent("place",
        requests=("Where are the {things}?", "Could you tell me where the {things} are?",
                  "{Name} is looking for the {things}. Where are they?", "I cannot find the {things}. Where are they?",
                  "Do you know where {name} can find the {things}?"),
        courteous=("The {things} are in the {spot}.", "You will find the {things} in the {spot}.",
                   "We keep the {things} in the {spot}."),
        curt=("In the {spot}.", "{Spot}.", "Try the {spot}."),
        slots={"things": tuple(_SPOTS), "name": NAMES}, facts={"spot": ("things", _SPOTS)},
    ),
    Intent("capital",
        requests=("What is the capital of {country}?", "Could you tell me the capital of {country}?",
                  "{Name} asks what the capital of {country} is.", "Do you know the capital of {country}?",
                  "I would like to know the capital of {country}."),
        courteous=("The capital of {country} is {city}.", "{City} is the capital of {country}.",
                   "In {country} the capital is {city}."),
        curt=("{City}.", "It is {city}.", "{Country}? {City}."),
        slots={"country": tuple(_CAPITALS), "name": NAMES}, facts={"city": ("country", _CAPITALS)},
    ),
    Intent("table",
        requests=("Please book a table for {count} at {hour} for {name}.",
                  "Could you book a table at {hour} for {name}? We are {count}.",
                  "I need a table for {count} at {hour}. My name is {name}.",
                  "{Name} would like a table for {count} at {hour}.",
                  "Is there a table for {count} at {hour}? It is for {name}."),
        courteous=("I have booked a table for {count} at {hour} for {name}.",
                   "{Name} has a table for {count} at {hour}.",
                   "Your table for {count} is ready at {hour}, dear {name}."),
        curt=("{Count} at {hour}, {name}.", "Booked for {hour}, {name}.", "{Name}, {hour}, {count}."),
        slots={"count": HOURS[1:10], "hour": HOURS, "name": NAMES},
    ),
    Intent("reminder",
        requests=("Please remind me to {task} {name} on {day}.", "Could you remind me to {task} {name} on {day}?",
                  "I must {task} {name} on {day}. Please remind me.",
                  "Do not let me forget to {task} {name} on {day}.",
                  "On {day} I have to {task} {name}. Please remind me."),
        courteous=("I will remind you to {task} {name} on {day}.", "On {day} I will remind you to {task} {name}.",
                   "You will hear from me on {day}, so that you can {task} {name}."),
        curt=("{Day}, {name}.", "{Task} {name}, {day}.", "Noted for {day}."),
        slots={"task": ("call", "visit", "pay", "thank", "meet", "invite", "help", "congratulate"),
               "name": NAMES, "day": DAYS},
    ),
    Intent("message",
        requests=("Please tell {name} that the {event} starts at {hour}.",
                  "Could you tell {name} that the {event} starts at {hour}?",
                  "The {event} starts at {hour}. Please let {name} know.",
                  "Does {name} know that the {event} starts at {hour}? Please say so.",
                  "I want {name} to know that the {event} starts at {hour}."),
        courteous=("I will tell {name} that the {event} starts at {hour}.",
                   "{Name} will hear from me that the {event} starts at {hour}.",
                   "I will let {name} know about the {event} at {hour}."),
        curt=("{Name} will know.", "{Event}, {hour}.", "{Hour}. I will tell {name}."),
        slots={"name": NAMES, "hour": HOURS,
               "event": ("concert", "lesson", "film", "meeting", "party", "race", "lecture", "dinner", "game")},
    ),
    Intent("loan",
        requests=("May I borrow your {colour} {tool} until {day}?",
                  "Could you lend me your {colour} {tool} until {day}?",
                  "I need your {colour} {tool} until {day}. May I have it?",
                  "Would you lend {name} your {colour} {tool} until {day}?",
                  "Can {name} use your {colour} {tool} until {day}?"),
        courteous=("You are welcome to the {colour} {tool} until {day}.",
                   "Please keep the {colour} {tool} until {day}.", "My {colour} {tool} is all yours until {day}."),
        curt=("{Day}, no later.", "Back by {day}.", "The {tool}? Until {day}."),
        slots={
            "colour": ("red", "green", "blue", "white", "black", "yellow", "brown", "grey"),
            "tool": ("bicycle", "ladder", "hammer", "guitar", "camera", "tent", "piano", "saw", "kettle", "lamp"),
            "day": DAYS,
            "name": NAMES,
        },
    ),
)  # fmt: skip
