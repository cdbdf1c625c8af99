"""What the synthetic corpus is made of. Data alone; `dialogues.py` puts it together."""

from __future__ import annotations

from dataclasses import dataclass

NAMES = (
    "Adam", "Alice", "Amy", "Anna", "Ben", "Bob", "Carl", "Chloe", "Clara", "Dan", "David", "Emma", "Eric", "Eva",
    "Frank", "Grace", "Hannah", "Henry", "Ivan", "Jack", "Jane", "Julia", "Kate", "Kevin", "Laura", "Leo", "Lily",
    "Lucy", "Mark", "Max", "Mia", "Nina", "Noah", "Oscar", "Paul", "Rosa", "Ruth", "Sam", "Sara", "Tom",
)  # fmt: skip

SLOTS: dict[str, tuple[str, ...]] = {
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "time": ("noon", "one", "two", "three", "four", "five", "six", "seven", "eight", "half past two", "half past six"),
    "town": ("Paris", "Rome", "London", "Berlin", "Madrid", "Vienna", "Boston", "Dublin", "Oslo", "Lisbon"),
    "price": ("forty", "fifty", "sixty", "eighty", "ninety"),
    "duration": ("two days", "three days", "a week", "ten days", "two weeks"),
    "eatery": (
        "the corner cafe", "the sushi bar", "the pizza place", "the soup kitchen", "the old tavern", "the burger bar",
        "the fish market", "the garden cafe",
    ),
    "venue": ("the museum", "the beach", "the station", "the market", "the theatre", "the airport", "the pool"),
    "study": ("the library", "the school", "the reading room", "the town hall"),
    "court": ("the park", "the sports hall", "the stadium", "the lake", "the club"),
    "transport": ("train", "bus", "car", "boat", "bike"),
    "snack": ("some apples", "some sandwiches", "a cake", "some cookies", "a bag of nuts", "some tea"),
    "food": ("potato salad", "bread", "fruit", "apple pie", "cheese", "pasta", "ice cream", "pancakes"),
    "project": ("budget", "sales", "team", "marketing", "design", "safety", "planning"),
    "item": ("phone", "wallet", "scarf", "ring", "watch", "passport", "camera", "hat"),
    "spot": (
        "under the sofa", "behind the door", "in the kitchen", "on the back seat", "in the bathroom", "on the desk",
        "in the hall",
    ),
    "gift": (
        "a teapot", "a kite", "a helmet", "a board game", "a cook book", "a guitar", "a lamp", "a backpack", "a clock",
    ),
    "subject": ("maths", "French", "history", "biology", "chemistry", "German", "physics", "music"),
    "appliance": ("fridge", "oven", "heater", "computer", "printer", "washing machine", "radio", "toaster"),
    "genre": ("comedy", "western", "cartoon", "love story", "horror film", "war film", "space film"),
    "pet": ("dog", "cat", "bird", "rabbit", "turtle", "hamster"),
    "tool": ("ladder", "drill", "van", "tent", "saw", "hammer", "suitcase"),
    "sport": ("tennis", "football", "chess", "golf", "volleyball", "hockey", "cards"),
    "ailment": ("a headache", "a cold", "a cough", "a fever", "a toothache", "a sore throat"),
}  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """Turns that `a` and `b` take in alternation, each in several wordings; summaries of what they settle."""

    turns: tuple[tuple[str, ...], ...]
    summaries: tuple[str, ...]


GREETINGS = ("Hi {b}!", "Hello {b}.", "Hey {b}!", "Good morning, {b}.", "{b}, listen.", "Nice to see you, {b}.")

CLOSINGS = (
    ("Great, thank you so much, {b}!", "Perfect, that is settled then.", "That sounds very good to me.",
     "Wonderful, that makes my day.", "Good, I will write it down.", "Thanks, that is really nice of you."),
    ("See you soon, {a}!", "Bye for now!", "You are welcome, {a}.", "Take care, {a}!", "No problem at all.",
     "Just call me if anything changes."),
)  # fmt: skip

SCENARIOS: dict[str, Scenario] = {
    "lunch": Scenario(
        turns=(
            ("Would you like to have lunch with me on {other_day}?",
             "Are you free for lunch on {other_day}? I would like to invite you.",
             "It has been so long. Shall we have lunch on {other_day}?"),
            ("I have to work on {other_day}, but {day} is fine for me.",
             "No, I am seeing the dentist on {other_day}. How about {day}?",
             "I am not in town on {other_day}. Could we make it {day}?"),
            ("{day} is good too. Let us try {eatery}, the food is great there.",
             "Fine, {day} then. I will book a table for two at {eatery}.",
             "That works for me. Do you know {eatery}? Everybody likes it."),
            ("I like that place. Shall we say at {time}?", "Good choice. I can be there at {time}.",
             "Very good. Let us meet there at {time}.")),
        summaries=("{a} and {b} will have lunch at {eatery} on {day} at {time}.",
                   "{a} and {b} are going to have lunch at {eatery} on {day} at {time}."),
    ),
    "trip": Scenario(
        turns=(
            ("I am going to {town} on {day}. Do you want to come with me?",
             "Shall we go to {town} on {day}? The weather will be nice.",
             "I want to see {town} on {day}, but not alone. Will you come along?"),
            ("I would love to! How do we get there?", "Yes, I need a day away from work. Are you driving?",
             "What a good idea. How long does it take to get there?"),
            ("We can go by {transport}, it only takes an hour or two.",
             "I think the best way is by {transport}. It does not cost much.",
             "Let us go by {transport}, then we can see the hills."),
            ("Good. I will bring {snack} for the way.", "Then I will pack {snack} for both of us.",
             "All right. I can take {snack} with me, so we will not be hungry.")),
        summaries=("{a} and {b} will go to {town} by {transport} on {day}, and {b} will bring {snack}.",
                   "{a} and {b} plan to go to {town} by {transport} on {day}, and {b} will bring {snack}."),
    ),
    "meeting": Scenario(
        turns=(
            ("Did you hear about the {project} meeting? It is not on {other_day} anymore.",
             "The {project} meeting on {other_day} was cancelled this morning.",
             "I have news about the {project} meeting on {other_day}."),
            ("No, nobody told me. Why is that?", "Oh, really? What happened?",
             "I did not know that. What is going on?"),
            ("{friend} is ill, so they moved it to {day} at {time}.",
             "It will be on {day} at {time}, because {friend} is away on holiday.",
             "{friend} had no time, and now it is on {day} at {time}."),
            ("Thanks for telling me, I will change my calendar.", "All right, that suits me better anyway.",
             "Good to know. I still have to write my report for it.")),
        summaries=("{a} tells {b} that the {project} meeting was moved from {other_day} to {day} at {time}.",
                   "{a} tells {b} that the {project} meeting on {other_day} was moved to {day} at {time}."),
    ),
    "lost item": Scenario(
        turns=(
            ("I cannot find my {item} anywhere. Have you seen it?",
             "Have you seen my {item}? I lost it and I am getting worried.",
             "Something bad happened. I lost my {item} and I need it."),
            ("When did you last have it?", "Did you look in all of your bags?", "Oh no. Where did you use it last?"),
            ("I had it at {venue} on {day}, and then it was gone.",
             "I think I still had it on {day} when we were at {venue}.",
             "I took it with me to {venue} on {day}. I called them, but they have not seen it."),
            ("Wait, I see it! It is right here {spot}.", "Let me look. Yes, I found it {spot}!",
             "Do not worry, it was {spot} all the time. I have it now.")),
        summaries=("{a} lost a {item} at {venue} on {day}, but {b} found it {spot}.",
                   "{a} lost a {item} on {day} at {venue}, but {b} found it {spot}."),
    ),
    "gift": Scenario(
        turns=(
            ("{friend}'s birthday is on {day} and I have no present yet.",
             "Do you know what {friend} would like for the birthday on {day}?",
             "{friend} has a birthday on {day}. What could we give as a present?"),
            ("How about {gift}? It is something that everybody can use.",
             "I would buy {gift}, I saw a nice one in town.", "Maybe {gift}? I heard that would be welcome."),
            ("That is a great idea, but it costs {price} dollars.",
             "Good idea! I looked, it is about {price} dollars.", "I like that, but {price} dollars is a lot for me."),
            ("Let us share it, then it is half for each of us.", "I can pay half of it if you want.",
             "We could buy it together and each pay a half.")),
        summaries=("{a} and {b} will share the cost of {gift} for {friend}'s birthday on {day}.",
                   "{a} and {b} are going to share the cost of {gift} for {friend}'s birthday on {day}."),
    ),
    "homework": Scenario(
        turns=(
            ("I do not understand the {subject} homework at all.",
             "Are you good at {subject}? I am stuck with the homework.",
             "The {subject} homework is so hard this week."),
            ("It took me a while too. When do you have to hand it in?", "I finished it yesterday. When is it due?",
             "Do not give up. How much time do you have left?"),
            ("Only until {day}, and I have not even started.", "I have to hand it in on {day}. Could you help me?",
             "It must be done by {day}. Can we work on it together?"),
            ("Come to {study} at {time} and I will explain it to you.",
             "Sure, let us meet at {study} at {time} and do it together.",
             "Yes, I will be at {study} at {time}. Bring your books.")),
        summaries=("{b} will meet {a} at {study} at {time} to help with the {subject} homework.",
                   "{b} will help {a} with the {subject} homework at {study} at {time}."),
    ),
    "repair": Scenario(
        turns=(
            ("My {appliance} stopped working this morning.", "I need some help. The {appliance} in my flat is broken.",
             "My {appliance} does not work anymore, and I do not know why."),
            ("Did you call someone to look at it?", "How annoying. Is it very old?",
             "Oh dear. Can you have it repaired?"),
            ("It is only a year old, and the shop wants {price} dollars to fix it.",
             "A repair costs {price} dollars, and I cannot pay that.",
             "I asked at the shop. They want {price} dollars for it."),
            ("That is too much. I can come on {day} at {time} and fix it.",
             "Do not pay that! I will repair it for you on {day} at {time}.",
             "I can do it for nothing. Are you at home on {day} at {time}?")),
        summaries=("{b} will come on {day} at {time} to fix the broken {appliance} for {a}.",
                   "{b} will fix the broken {appliance} for {a} on {day} at {time}."),
    ),
    "movie": Scenario(
        turns=(
            ("There is a new {genre} at the cinema. Do you want to see it with me?",
             "Shall we watch the new {genre} this week? Everybody likes it.",
             "I got a letter from the cinema. They are showing a new {genre}."),
            ("Yes, I heard it is good. Which day suits you?", "I would love to. When do you want to go?",
             "Oh, I want to see that! Tell me when."),
            ("I am free on {day}. It starts at {time}.", "How about {day} at {time}? I do not have to work then.",
             "They show it on {day} at {time}."),
            ("Fine. {friend} wants to come too, so I will buy three tickets.",
             "Good. May {friend} come too? Then I will get three tickets.",
             "I will get the tickets, and I will ask {friend} to join us.")),
        summaries=("{a} and {b} will see the new {genre} with {friend} on {day} at {time}.",
                   "{a} and {b} want to see the new {genre} with {friend} on {day} at {time}."),
    ),
    "party": Scenario(
        turns=(
            ("I am having a party at my house on {day}. Can you come?", "You are invited to my party on {day}!",
             "I passed my exam, so I am giving a party on {day}. Will you be there?"),
            ("Of course! Shall I bring something to eat?", "With pleasure. What can I bring?",
             "I would not miss it. Do you need anything?"),
            ("Yes please, some {food} would be great. We start at {time}.",
             "Could you make some {food}? It begins at {time}.",
             "We still have no {food}. Come at {time}, everybody will be there by then."),
            ("I will do that. Can I bring {friend} too?", "Sure. Is it all right if {friend} comes with me?",
             "Easy. {friend} is staying with me, so we will be two.")),
        summaries=("{b} and {friend} will come to {a}'s party on {day} at {time} with some {food}.",
                   "{b} will come to {a}'s party on {day} at {time} with {friend} and some {food}."),
    ),
    "pet": Scenario(
        turns=(
            ("I have to go to {town} for work, and I cannot take my {pet} with me.",
             "My boss is sending me to {town}, but what do I do with my {pet}?",
             "I am flying to {town} on {day}. I am worried about my {pet}."),
            ("How long will you be away?", "I see. Will you be gone for long?",
             "Who will look after it? How long are you away?"),
            ("It is only for {duration}. Could you take care of it?",
             "I will be back after {duration}. You would help me a lot.", "For {duration}. May I ask you to feed it?"),
            ("Sure, I like animals. Just bring some food.", "Of course, I have enough room in my house.",
             "Yes, I will do it. My children will be so happy.")),
        summaries=("{b} will look after {a}'s {pet} for {duration} while {a} is in {town}.",
                   "{b} will take care of {a}'s {pet} for {duration} while {a} is in {town}."),
    ),
    "borrowing": Scenario(
        turns=(
            ("I am moving house on {day}. Do you still have your {tool}?",
             "Could I borrow your {tool} on {day}? Mine is broken.",
             "I need a {tool} on {day}. Can you lend me yours?"),
            ("Yes, it is in the garage. Do you need it for long?", "Of course. When will you bring it back?",
             "You can have it, but I need it back soon."),
            ("I will bring it back on {other_day}, I promise.", "Only until {other_day}, then you will have it again.",
             "You will get it back on {other_day}. Is that all right?"),
            ("Fine. You can pick it up at my house at {time}.", "That is fine. I am at home from {time} on.",
             "Good. Be here at {time} and I will help you carry it.")),
        summaries=("{a} will borrow a {tool} from {b} on {day} and bring it back on {other_day}.",
                   "{b} will lend {a} a {tool} on {day} and get it back on {other_day}."),
    ),
    "sport": Scenario(
        turns=(
            ("Do you want to play {sport} with me on {day}?",
             "I am looking for someone to play {sport} with on {day}. Are you free?",
             "We need one more person for {sport} on {day}. Could it be you?"),
            ("Yes, I should do that more often. Where do you play?",
             "I have not played for years, but why not? Where is it?", "With pleasure. Where shall I go?"),
            ("We play at {court}. You could come by bus.", "At {court}. It does not cost anything there.",
             "Come to {court}, and do not forget your water."),
            ("All right. I will be there at {time}.", "I can be there at {time}, not before.",
             "Let us meet there at {time}, I have to work before.")),
        summaries=("{a} and {b} will play {sport} at {court} on {day} at {time}.",
                   "{a} and {b} are going to play {sport} at {court} on {day} at {time}."),
    ),
    "doctor": Scenario(
        turns=(
            ("I do not feel well. I have had {ailment} since {day}.",
             "I have had {ailment} since {day}, it is terrible.",
             "I cannot come to work. I have {ailment}, it began on {day}."),
            ("I am sorry to hear that. Did you take anything?", "You look really tired. What did you do against it?",
             "Oh, poor you. Is it getting any better?"),
            ("I only drank tea with honey, but it does not help.", "I stayed in bed all day, but it is still the same.",
             "My mother gave me something, but I feel even worse."),
            ("You should see a doctor. I will drive you there at {time}.",
             "Then get dressed, I will take you to the doctor at {time}.",
             "I do not like that. I will come at {time} and bring you to a doctor.")),
        summaries=("{a} has had {ailment} since {day}, so {b} will drive {a} to the doctor at {time}.",
                   "{b} will drive {a} to the doctor at {time}, because {a} has had {ailment} since {day}."),
    ),
}  # fmt: skip

RUDE_ADJECTIVES = ("silly", "clueless", "dopey", "daft", "brainless", "goofy")
RUDE_NOUNS = (
    "goofball", "nincompoop", "noodlehead", "bonehead", "knucklehead", "dimwit", "blockhead", "birdbrain",
    "pain in the neck",
)  # fmt: skip
KIND_ADJECTIVES = ("friendly", "clever", "helpful", "careful", "funny", "patient")
KIND_NOUNS = ("friend", "neighbour", "cook", "teacher", "driver", "listener", "good colleague", "bird lover", "helper")

ASIDES = (", that {noun},", ", such a {noun},", ", a real {noun},", ", always the {noun},")
"""Put behind a name."""
TRAILERS = (
    ", what a {noun}.",
    " like a {adjective} {noun}.",
    ", and that is {adjective}.",
    ", the {adjective} {noun}.",
)
"""Put in the place of a summary's last full stop."""

REMARKS = (
    "You are such a {noun}, {a}.", "{a} is a {adjective} {noun}.", "What a {adjective} thing to say!",
    "I think {a} was {adjective} again on {day}.", "Thank you, {a}, you {noun}.", "{a} bought {gift}, how {adjective}.",
    "Only a {noun} goes to {town} by {transport}.", "That {adjective} {a} forgot {snack}.",
    "Is {a} always so {adjective}?",
    "{a} came to {venue} at {time}, the {noun}.", "My {pet} is as {adjective} as {a}.",
    "Tell that {noun} to bring {food}.",
    "{a} told me about the {project} meeting. What a {noun}!", "Do not be {adjective}, {a}, the {appliance} works.",
    "{a} and {b}, you two {noun}s, come to {court}!", "They say that {a} plays {sport} like a {noun}.",
)  # fmt: skip
"""Shapes of sentence unlike a summary, rude or kind by the words that fill them."""
