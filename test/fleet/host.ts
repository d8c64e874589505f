// SPDX-License-Identifier: Apache-2.0
/** Hosts for workers: network namespaces, each with a link to the one that Redis and the sender are in. They need root. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'

const ip = (...words: string[]) => execFileSync('ip', words, { stdio: ['ignore', 'inherit', 'inherit'] })

/** A host with a link; addresses of 198.51.100.0/24, which are nobody's. */
export class Host {
  readonly #name: string
  readonly #link: string
  /** Of the other end of its link. */
  readonly address: string
  /** Its own. */
  readonly inside: string

  constructor(index: number) {
    this.#name = `cosim-${process.pid}-${index}`
    this.#link = `cosim${index}`
    this.address = `198.51.100.${4 * index + 1}`
    this.inside = `198.51.100.${4 * index + 2}`
    ip('netns', 'add', this.#name)
    ip('link', 'add', this.#link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', this.#name)
    ip('address', 'add', `${this.address}/30`, 'dev', this.#link)
    ip('link', 'set', this.#link, 'up')
    ip('-n', this.#name, 'address', 'add', `${this.inside}/30`, 'dev', 'eth0')
    ip('-n', this.#name, 'link', 'set', 'eth0', 'up')
    ip('-n', this.#name, 'link', 'set', 'lo', 'up')
  }

  /** Starts a program of Node's there. */
  node(...words: string[]): ChildProcess {
    return spawn('ip', ['netns', 'exec', this.#name, process.execPath, ...words], { stdio: 'inherit' })
  }

  link(state: 'up' | 'down'): void {
    console.error(`${this.#link} ${state}`)
    ip('link', 'set', this.#link, state)
  }

  remove(): void {
    ip('netns', 'del', this.#name)
  }
}
