"""An agent that looks in two places at once, asks, and books only what was approved.

Start it with `runwire dev examples/booking.py`, kill it wherever you like, and start it again.
"""

import asyncio
from dataclasses import dataclass

import runwire


@dataclass
class Offer:
    hotel: str
    price: float


@runwire.tool(name="find_hotels", retry=3)
async def find(city: str) -> list[Offer]:
    await asyncio.sleep(1)  # pretend that it is far away
    return [Offer(f"Hotel {city}", 120.0), Offer(f"{city} Inn", 80.0)]


@runwire.tool(on_crash="fail")
async def book(hotel: str, nights: int, key: str) -> str:
    await asyncio.sleep(1)
    return f"{hotel} is booked for {nights} nights ({key[:8]})."


async def agent(ctx, message):
    await ctx.thinking("I look in Oslo and in Rome.")
    oslo, rome = await ctx.gather(ctx.tool(find, city="Oslo"), ctx.tool(find, city="Rome"))
    cheapest = min([*oslo, *rome], key=lambda offer: offer.price)
    try:
        nights = await ctx.ask(f"{cheapest.hotel} has a room for {cheapest.price:.0f}. How many nights?", returns=int)
    except runwire.WrongAnswer:
        return "I did not understand that as a number, so I book nothing."
    if not await ctx.approve(f"Book {cheapest.hotel} for {nights * cheapest.price:.0f}?"):
        return "I book nothing."
    try:
        return await ctx.tool(book, hotel=cheapest.hotel, nights=nights, key=str(ctx.uuid()))
    except runwire.OutcomeUnknown:
        return "The booking was cut off, and may or may not have been made. Please look before you try again."
