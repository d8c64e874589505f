// SPDX-License-Identifier: Apache-2.0
import {
  encodeQuit,
  encodeReply,
  type Hello,
  type TrapRead,
  type TrapWrite,
} from '../../protocol/generated/messages.ts'
import { enums } from '../../protocol/messages.ts'
import type { Policy } from '../policy/policy.ts'
import { request } from '../trace/records.ts'
import { LinkClosed } from './byteStream.ts'
import { CannotResume, type Envelope, readCheckpoint } from './checkpoint.ts'
import type { Link } from './link.ts'
import { describeError, isOfLink, refuse, wireText } from './refusal.ts'
import type { Thread } from './thread.ts'

const ABORTED = enums.status.aborted[0]

/** A machine that ran before this server: from its hello until its first request is answered. */
export class TakeOver {
  /** What the policy had to put right. */
  readonly repairs: readonly string[]
  /** Traps that the machine had made. */
  readonly traps: number
  /** Nobody can decide the machine's traps, and why: only a reset helps. */
  readonly lost: string | undefined
  readonly #thread: Thread
  readonly #link: Link
  /** Absent: there was no checkpoint that could be read. */
  readonly #envelope: Envelope | undefined

  /**
   * Brings the policy to where its predecessor stopped.
   * @throws LinkClosed when the machine is refused, or left to another server
   */
  constructor(thread: Thread, link: Link, hello: Hello, policy: Policy) {
    this.#thread = thread
    this.#link = link
    let repairs: readonly string[] = []
    try {
      const start = thread.ring.now()
      this.#envelope = checkpointOf(hello, policy)
      policy.state?.restore(this.#envelope.state)
      try {
        repairs = policy.state?.resume?.() ?? []
      } catch (error) {
        if (thread.onRefusal === 'leave') throw error
        // If the request that waits is a reset, none of this matters.
        this.lost = refusal(error as Error)
      }
      thread.ring.request(request.resume, 0, start, thread.ring.now() - start, 0, 0, 0, 0)
    } catch (error) {
      this.lost = this.#cannotResume(hello, error as Error)
    }
    this.repairs = repairs
    this.traps = this.#envelope ? this.#envelope.trap + Math.max(0, hello.lastSeq - this.#envelope.last) : 0
  }

  /** The machine's next request. @returns whether it is answered, without a decision. @throws LinkClosed, CannotResume */
  answers(message: TrapRead | TrapWrite): boolean {
    const link = this.#link
    if (this.lost !== undefined) {
      if (this.#thread.onRefusal !== 'reset') {
        encodeQuit(link.out, link.nextSeq(), 1, this.lost)
        link.flush()
        throw new CannotResume(this.lost)
      }
      encodeReply(link.out, message.seq, ABORTED, 0, 0)
      link.flush()
      return true
    }
    const { request, status, hi, lo } = this.#envelope ?? NOTHING
    if (message.seq !== request) return false
    encodeReply(link.out, message.seq, status, hi, lo)
    link.flush()
    return true
  }

  /** @returns why the machine is lost that is taken all the same, to be reset. @throws LinkClosed when it is not */
  #cannotResume(hello: Hello, error: Error): string {
    const text = refusal(error)
    switch (this.#thread.onRefusal) {
      case 'reset':
        return text
      case 'leave':
        throw new LinkClosed(text)
      default:
        return refuse(this.#link, hello, text)
    }
  }
}

const NOTHING = { request: 0, status: 0, hi: 0, lo: 0 }

/** @throws CannotResume when there is none of this session and this policy */
function checkpointOf(hello: Hello, policy: Policy): Envelope {
  const envelope = readCheckpoint(hello.checkpoint)
  if (envelope.session !== hello.session) throw new CannotResume('its checkpoint is of another session')
  if (envelope.policy !== policy.name) {
    throw new CannotResume(`it runs under policy ${envelope.policy}, this server has ${policy.name}`)
  }
  return envelope
}

/** Why a machine cannot be taken over, as the wire takes it. @throws what is about the connection instead */
function refusal(error: Error): string {
  if (isOfLink(error)) throw error
  return wireText(`the running machine cannot be taken over: ${describeError(error)}`)
}
