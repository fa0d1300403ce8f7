"""Twenty-four tasks beside the eight of make_tasks, for the study with more experts.

A task is a function of (rng, words) that draws (what is asked, answer), and five wordings, the last for tests alone.
`words` is language -> number -> words, as `numbers spell` prints them.
"""

import string

MONTHS = "January February March April May June July August September October November December".split()
FRENCH_MONTHS = "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split()
PEOPLE = ("girl boy teacher doctor farmer king queen nurse soldier painter baker driver student lawyer singer "
          "pilot").split()
# past -> base form
VERBS = dict(painted="paint", cleaned="clean", repaired="repair", watched="watch", opened="open", closed="close",
             moved="move", found="find", sold="sell", bought="buy", carried="carry", washed="wash",
             described="describe", delivered="deliver", ordered="order", took="take")
LOOKS = "red blue heavy broken wooden new beautiful dirty empty little huge cheap".split()
THINGS = "fence car house window letter table picture bridge boat garden book clock chair lamp bicycle box".split()
FIRST = ("Anna Ben Clara David Emma Felix Greta Henry Ida Jonas Karla Leon Maria Noah Olga Paul Rosa Simon "
         "Tina Victor").split()
LAST = ("Keller Smith Brown Taylor Meyer Fischer Weber Lopez Garcia Martin Dubois Moreau Rossi Novak Larsen Jansen "
        "Clark Walker Young Baker").split()
CITIES = "Oslo Paris Rome Berlin Madrid Lisbon Vienna Prague London Dublin Athens Warsaw Helsinki Geneva".split()
GROUPS = ["apple banana cherry grape lemon mango melon orange peach pear plum fig".split(),
          "horse mouse tiger zebra eagle snake lion bear wolf rabbit camel goat".split(),
          "train plane ship truck bus tram bicycle car boat helicopter van taxi".split(),
          "knife spoon fork plate glass cup bowl pan pot kettle jug tray".split()]
WORDS = sum(GROUPS, [])
OPPOSITES = [("taller", "shorter"), ("older", "younger"), ("faster", "slower"), ("richer", "poorer"),
             ("stronger", "weaker"), ("louder", "quieter")]
FEELINGS = "tired happy hungry angry late ready ill busy lost afraid bored thirsty".split()


def parts(rng):
    """Who did what to which thing: person, verb (past), look, thing."""
    return rng.choice(PEOPLE), rng.choice(list(VERBS)), rng.choice(LOOKS), rng.choice(THINGS)


def day(rng):
    return rng.randint(1900, 2099), rng.randint(1, 12), rng.randint(1, 28)


def number(rng, low=1, high=9999):
    return rng.randint(low, high)


def roman(value):
    text = ""
    for size, letters in zip((1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1),
                             "M CM D CD C XC L XL X IX V IV I".split()):
        text += letters * (value // size)
        value %= size
    return text


def spelled(language):
    def draw(rng, words):
        n = number(rng)
        return str(n), words[language][n]
    return draw


def in_digits(language):
    def draw(rng, words):
        n = number(rng)
        return words[language][n], str(n)
    return draw


def from_roman(rng, words):
    n = number(rng, 1, 3999)
    return roman(n), str(n)


def us_date(rng, words):
    year, month, d = day(rng)
    return f"{year}-{month:02d}-{d:02d}", f"{MONTHS[month - 1]} {d}, {year}"


def french_date(rng, words):
    year, month, d = day(rng)
    return f"{year}-{month:02d}-{d:02d}", f"{'1er' if d == 1 else d} {FRENCH_MONTHS[month - 1]} {year}"


def question(rng, words):
    who, did, look, what = parts(rng)
    return f"The {who} {did} the {look} {what}.", f"Did the {who} {VERBS[did]} the {look} {what}?"


def negation(rng, words):
    who, did, look, what = parts(rng)
    return f"The {who} {did} the {look} {what}.", f"The {who} did not {VERBS[did]} the {look} {what}."


def future(rng, words):
    who, did, look, what = parts(rng)
    return f"The {who} {did} the {look} {what}.", f"The {who} will {VERBS[did]} the {look} {what}."


def polite(rng, words):
    _, did, look, what = parts(rng)
    verb = VERBS[did]
    return f"{verb.capitalize()} the {look} {what}.", f"Could you please {verb} the {look} {what}?"


def possessive(rng, words):
    who, _, look, what = parts(rng)
    return f"the {look} {what} of the {who}", f"the {who}'s {look} {what}"


def reverse(rng, words):
    some = rng.sample(WORDS, 4)
    return ", ".join(some), ", ".join(reversed(some))


def surname(rng, words):
    first, middle, last = rng.choice(FIRST), rng.choice(string.ascii_uppercase), rng.choice(LAST)
    return f"{first} {middle}. {last}", f"{last}, {first} {middle}."


def money(rng, words):
    dollars, cents = number(rng, 2, 99), number(rng, 2, 99)
    return f"${dollars}.{cents:02d}", f"{words['en'][dollars]} dollars and {words['en'][cents]} cents"


def record(rng, words):
    name, age, city = rng.choice(FIRST), number(rng, 18, 80), rng.choice(CITIES)
    return f"{name} is {age} and lives in {city}", f'{{"name": "{name}", "age": {age}, "city": "{city}"}}'


def half_days(rng, words):
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    return f"{hour:02d}:{minute:02d}", f"{(hour - 1) % 12 + 1}:{minute:02d} {'am' if hour < 12 else 'pm'}"


def compare(rng, words):
    (one, other), (more, less) = rng.sample(FIRST, 2), rng.choice(OPPOSITES)
    return f"{one} is {more} than {other}.", f"{other} is {less} than {one}."


def reported(rng, words):
    who, feeling, also = rng.choice(FIRST), *rng.sample(FEELINGS, 2)
    return f'{who}: "I am {feeling} and {also}."', f"{who} said: I was {feeling} and {also}."


def digits(rng, words):
    n = str(number(rng, 10000, 99999))
    return n, " ".join(words["en"][int(d)] for d in n)


def mirror(rng, words):
    n = str(number(rng, 10000, 99999))
    return n, n[::-1]


def largest(rng, words):
    some = rng.sample(range(10, 1000), 3)
    return ", ".join(map(str, some)), str(max(some))


def snake_case(rng, words):
    who, did, look, what = parts(rng)
    return f"{who} {VERBS[did]} {look} {what}", f"{who}_{VERBS[did]}_{look}_{what}"


def odd_one(rng, words):
    many, one = rng.sample(GROUPS, 2)
    odd = rng.choice(one)
    some = rng.sample(many, 3) + [odd]
    rng.shuffle(some)
    return ", ".join(some), odd


def wordings(text):
    return [line.strip() for line in text.split("|")]


MORE_TASKS = {task: (draw, wordings(text)) for task, draw, text in [
    # With these there are sixteen.
    ("english", spelled("en"),
     "Write the number {} in English words. | How do you say {} in English? | Spell out {} in English. | Give me "
     "the English words for {}. | What is {} in English?"),
    ("from_roman", from_roman,
     "Which number is the Roman numeral {}? | Write the Roman numeral {} in digits. | Convert the Roman numeral {} "
     "to a number. | What does {} mean as a Roman numeral? | Read the Roman numeral {}."),
    ("us_date", us_date,
     "Write the date {} in American style. | How do Americans write the date {}? | Give the American form of the "
     "date {}. | Convert {} to an American date. | Put the date {} into American English."),
    ("question", question,
     "Turn this sentence into a question: {} | Ask about this sentence: {} | Make a question of this: {} | Rewrite "
     "as a question: {} | What is the question to this sentence? {}"),
    ("reverse", reverse,
     "Write these words in reverse order: {}. | Reverse this list: {}. | Turn this list around: {}. | Read this "
     "list from the end: {}. | List these words backwards: {}."),
    ("surname", surname,
     "Write the name {} with the surname first. | Put the surname of {} in front. | How does a library sort {}? | "
     "Give {} as in a telephone book. | Rewrite {} beginning with the surname."),
    ("money", money,
     "Write the amount {} in words. | Spell out the price {}. | How do you say {} on a cheque? | Give the sum {} "
     "in words. | What is the price {} in words?"),
    ("record", record,
     "Write as JSON: {}. | Make a JSON object of this: {}. | Turn into JSON: {}. | Give the JSON record for: {}. | "
     "Store this person as JSON: {}."),
    # And with these thirty-two.
    ("from_french", in_digits("fr"),
     "Write the French number {} in digits. | Which number is {} in French? | The French words {} as digits, "
     "please. | Turn the French number {} into figures. | What number does {} mean in French?"),
    ("from_german", in_digits("de"),
     "Write the German number {} in digits. | Which number is {} in German? | The German words {} as digits, "
     "please. | Turn the German number {} into figures. | What number does {} mean in German?"),
    ("to_spanish", spelled("es"),
     "Write the number {} in Spanish words. | How do you say {} in Spanish? | Spell out {} in Spanish. | Give me "
     "the Spanish words for {}. | What is {} in Spanish?"),
    ("french_date", french_date,
     "Write the date {} in French. | How is the date {} written in French? | Give the French form of the date {}. "
     "| Convert {} to a French date. | Put the date {} into French."),
    ("half_days", half_days,
     "Write the time {} with am or pm. | What is {} on a twelve-hour clock? | Convert the time {} to am or pm. | "
     "Give {} as an American clock shows it. | Put {} into the twelve-hour form."),
    ("future", future,
     "Put this sentence in the future: {} | Rewrite in the future tense: {} | Make this sentence future: {} | "
     "Change the following sentence to the future: {} | What is the future form of this sentence? {}"),
    ("negation", negation,
     "Negate this sentence: {} | Say that this is not so: {} | Make this sentence negative: {} | Rewrite with not: "
     "{} | What is the negative form of this sentence? {}"),
    ("possessive", possessive,
     "Rewrite with an apostrophe: {} | Use the possessive: {} | Say it with 's: {} | Put the owner first: {} | "
     "What is the possessive form of this? {}"),
    ("polite", polite,
     "Ask politely: {} | Make this order polite: {} | Turn this command into a request: {} | Say it in a friendly "
     "way: {} | What is a polite form of this? {}"),
    ("compare", compare,
     "Say it the other way round: {} | Turn this comparison around: {} | Begin with the other person: {} | Swap "
     "the two people: {} | What is the opposite view of this? {}"),
    ("reported", reported,
     "Put this in reported speech: {} | Report what was said: {} | Make this indirect speech: {} | Retell these "
     "words: {} | What did this person say? {}"),
    ("digits", digits,
     "Read out the digits of {}. | Spell {} digit by digit. | Say the code {} aloud. | Name each digit of {}. | "
     "How do you dictate {}?"),
    ("mirror", mirror,
     "Write {} backwards. | Reverse the digits of {}. | Turn the number {} around. | Read {} from right to left. | "
     "What is {} in a mirror?"),
    ("largest", largest,
     "Which is the largest of {}? | Give the largest number: {}. | Find the maximum of {}. | Pick the biggest of "
     "{}. | What is the greatest of these numbers: {}?"),
    ("snake_case", snake_case,
     "Write in snake case: {} | Join with underscores: {} | Make a variable name of: {} | Turn into an identifier: "
     "{} | Give a file name for: {}"),
    ("odd_one", odd_one,
     "Which word is the odd one out: {}? | Find the word that does not belong: {}. | Which of these is different: "
     "{}? | Pick the odd word: {}. | What does not fit here: {}?"),
]}
