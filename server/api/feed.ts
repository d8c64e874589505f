// SPDX-License-Identifier: Apache-2.0

/** Something with a number that goes up by one with every item of its feed. */
export interface Numbered {
  readonly id: number
}

/** What clients read, each at its own pace: nothing is kept for a client, and nothing is kept for ever. */
export interface Source<T extends Numbered> {
  /** Id of the oldest item that is still there, and of the next one. */
  readonly oldest: number
  readonly next: number
  /** Clients are sent what is new every so many ticks of the subscriptions; default: every one. */
  readonly pace?: number
  /** Somebody will read: what takes time may be made ready. */
  subscribed?(): void
  /**
   * Items from id `from` on, at most `max` that match, after looking at a bounded number of them.
   * @returns the items, and the id to go on with.
   */
  read(from: number, max: number, filter: unknown): { readonly items: readonly T[]; readonly next: number }
}

/** The last so many items of one kind. */
export class Feed<T extends Numbered> implements Source<T> {
  readonly #capacity: number
  readonly #matches: ((item: T, filter: unknown) => boolean) | undefined
  #items: T[] = []
  #next = 1

  constructor(capacity: number, matches?: (item: T, filter: unknown) => boolean) {
    this.#capacity = capacity
    this.#matches = matches
  }

  get next(): number {
    return this.#next
  }

  get oldest(): number {
    return this.#next - this.#items.length
  }

  push(item: Omit<T, 'id'>): T {
    const numbered = { id: this.#next++, ...item } as T
    this.#items.push(numbered)
    // In bulk, because every removal moves all the others.
    if (this.#items.length > this.#capacity * 1.25) this.#items = this.#items.slice(-this.#capacity)
    return numbered
  }

  get last(): T | undefined {
    return this.#items.at(-1)
  }

  read(from: number, max: number, filter: unknown): { items: T[]; next: number } {
    const start = Math.max(from, this.oldest)
    const items: T[] = []
    let id = start
    for (; id < this.#next && items.length < max; id++) {
      const item = this.#items[id - this.oldest]
      if (item !== undefined && (this.#matches === undefined || this.#matches(item, filter))) items.push(item)
    }
    return { items, next: id }
  }
}
