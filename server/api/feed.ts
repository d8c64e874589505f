// SPDX-License-Identifier: Apache-2.0

/** An item of a feed; ids are consecutive. */
export interface Numbered {
  readonly id: number
}

/** A bounded history that clients read, each at its own pace. No state is kept per client. */
export interface Source<T extends Numbered> {
  /** Ids of the oldest item that is kept, and of the next one. */
  readonly oldest: number
  readonly next: number
  /** New items are sent every `pace` ticks of the subscriptions; default 1. */
  readonly pace?: number
  /** Called when a client subscribes, so that slow preparations can begin. */
  subscribed?(): void
  /**
   * Items from id `from` on, at most `max` that match, after looking at a bounded number of them.
   * @returns the items, and the id to go on with.
   */
  read(from: number, max: number, filter: unknown): { readonly items: readonly T[]; readonly next: number }
}

/** The last `capacity` items of one kind. */
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
    // In bulk: removing from the front moves all other items.
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
