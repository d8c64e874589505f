// SPDX-License-Identifier: Apache-2.0
/** A QEMU that was given a token, and servers that know it, or do not. */
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import type { Server } from 'node:net'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { FrameWriter } from '../../protocol/framing.ts'
import {
  encodeChallenge,
  encodeCheckpoint,
  encodeConfirm,
  encodeHold,
  encodeHwWrite,
  encodeMemRead,
  encodeMemWrite,
  encodePause,
  encodeQuit,
  encodeRefuse,
  encodeWelcome,
  Id,
  type MessageFromQemu,
} from '../../protocol/generated/messages.ts'
import { enums, TOKEN_BYTES } from '../../protocol/messages.ts'
import { tokenMac } from '../../server/trap/token.ts'
import { QtestMachine, type QtestOptions, RAM, SMMU } from './machine.ts'
import { type Handler, serve as serveAt } from './server.ts'

const TEXT = '5f0b6d1c9a874e23b1d0c4f8e6a79235'
const TOKEN = Buffer.from(TEXT)
const NONCE = Buffer.alloc(TOKEN_BYTES, 3)

let machine: QtestMachine
let server: Server | undefined
beforeEach(() => {
  machine = new QtestMachine()
})
afterEach(async () => {
  server?.close()
  server = undefined
  await machine.dispose()
})

/** QEMU with that token in a file. */
function start(text: string, more: QtestOptions = {}): Promise<void> {
  const file = join(machine.folder, 'token')
  writeFileSync(file, text)
  const { properties = [], ...rest } = more
  return machine.start({
    objects: [`secret,id=token,file=${file}`],
    properties: ['token-secret=token', ...properties],
    ...rest,
  })
}

/** The server of this tree. */
const serveWith = (token: Uint8Array) => machine.serve('passthrough', {}, undefined, undefined, undefined, { token })

type Proof = Extract<MessageFromQemu, { type: typeof Id.proof }>
type Send = (out: FrameWriter, seq: number) => void

/** What was said by QEMU before it hung up. */
const said: MessageFromQemu[] = []

/** A server that challenges, and then does what it is told to do with the proof. */
async function challenger(then: (proof: Proof, hello: Buffer, out: FrameWriter) => void, nonce = NONCE): Promise<void> {
  said.length = 0
  let hello: Buffer = Buffer.alloc(0)
  await listen((message, out, _socket, payload) => {
    said.push(message)
    if (message.type === Id.hello) {
      hello = Buffer.from(payload)
      encodeChallenge(out, 1, nonce)
    } else if (message.type === Id.proof) then(message, hello, out)
  })
}

async function listen(handler: Handler): Promise<void> {
  server = await serveAt(machine.socket, handler)
}

/** QEMU gives up: what it says. */
async function givesUp(started: Promise<void>): Promise<string> {
  await expect(started).rejects.toThrow()
  expect(await machine.exit()).toBe(1)
  return machine.errors
}

describe('the server of this tree', () => {
  test.each([
    ['as it is', TEXT],
    ['with the end of its line', `${TEXT}\n`],
    ['with the end of its line, CR LF', `${TEXT}\r\n`],
  ])('that knows the token, %s, gets the machine', async (_name, text) => {
    await serveWith(TOKEN)
    await start(text)
    expect(await machine.qtest.read(SMMU, 4)).not.toBe(0n)
  })

  test('that knows another one refuses QEMU', async () => {
    const thread = await serveWith(Buffer.from(`${TEXT}0`))
    const away = once(thread, 'turnedAway')
    expect(await givesUp(start(TEXT))).toContain('it does not know the token of this server')
    expect(await away).toEqual(['it does not know the token of this server'])
  })

  test('that has none, and QEMU without one at a server that has', async () => {
    await machine.serve('passthrough')
    expect(await givesUp(start(TEXT))).toContain('QEMU was given a token (token-secret), this server was not')
    await machine.dispose()
    machine = new QtestMachine()
    await serveWith(TOKEN)
    expect(await givesUp(machine.start())).toContain('this server wants a token, and QEMU was given none')
  })
})

describe('a server that does not know the token', () => {
  test('and says welcome is not taken', async () => {
    await listen((message, out) => {
      if (message.type === Id.hello) encodeWelcome(out, message.seq, 1, 0, 'mine')
    })
    expect(await givesUp(start(TEXT))).toContain('the server has not proved that it knows the token')
  })

  test.each<[string, Send]>([
    ['memRead', (out, seq) => encodeMemRead(out, seq, RAM, 8)],
    ['memWrite', (out, seq) => encodeMemWrite(out, seq, RAM, Buffer.alloc(8))],
    ['hwWrite', (out, seq) => encodeHwWrite(out, seq, 0, 0x20, 4, 0, 0)],
    ['checkpoint', (out, seq) => encodeCheckpoint(out, seq, Buffer.alloc(8))],
    ['pause', encodePause],
    ['hold', encodeHold],
    ['quit', (out, seq) => encodeQuit(out, seq, 0, 'bye')],
  ])('is served nothing, neither at once nor after the proof: %s', async (_name, send) => {
    await listen((message, out) => {
      said.push(message)
      if (message.type === Id.hello) send(out, 1)
    })
    said.length = 0
    expect(await givesUp(start(TEXT))).toContain('the server has not proved that it knows the token')
    expect(said.map(({ type }) => type)).toEqual([Id.hello, Id.error])
    server?.close()
    await machine.dispose()
    machine = new QtestMachine()
    await challenger((_proof, _hello, out) => send(out, 2))
    expect(await givesUp(start(TEXT))).toContain('the server has not proved that it knows the token')
    expect(said.map(({ type }) => type)).toEqual([Id.hello, Id.proof, Id.error])
  })

  test.each<[string, (proof: Proof, hello: Buffer) => Uint8Array]>([
    ['zeros', () => Buffer.alloc(TOKEN_BYTES)],
    ["QEMU's own proof", ({ mac }) => mac],
    [
      'one that differs in a bit',
      ({ nonce }, hello) => {
        const mac = tokenMac(TOKEN, 'server', NONCE, nonce, hello)
        mac[TOKEN_BYTES - 1] ^= 1
        return mac
      },
    ],
    ['one over the nonces the other way round', ({ nonce }, hello) => tokenMac(TOKEN, 'server', nonce, NONCE, hello)],
    ['one for another hello', ({ nonce }) => tokenMac(TOKEN, 'server', NONCE, nonce, Buffer.from('hello'))],
  ])('is found out by its confirm: %s', async (_name, mac) => {
    await challenger((proof, hello, out) => encodeConfirm(out, 2, mac(proof, hello)))
    expect(await givesUp(start(TEXT))).toContain('the server does not know the token')
    expect(said).toContainEqual(expect.objectContaining({ type: Id.error, code: enums.error.token[0] }))
  })

  test.each([0, 31])('a mac of %i bytes is none', async bytes => {
    await challenger((_proof, _hello, out) => encodeConfirm(out, 2, Buffer.alloc(bytes)))
    expect(await givesUp(start(TEXT))).toContain('confirm.mac: expected 32 bytes')
  })

  test('confirms what nobody proved', async () => {
    await listen((message, out) => {
      if (message.type === Id.hello) encodeConfirm(out, 1, Buffer.alloc(TOKEN_BYTES))
    })
    expect(await givesUp(start(TEXT))).toContain('confirm, but nothing was proved')
  })
})

describe('the challenge', () => {
  test('comes once: QEMU proves nothing to a second one', async () => {
    await challenger((_proof, _hello, out) => encodeChallenge(out, 2, NONCE))
    expect(await givesUp(start(TEXT))).toContain('challenge, but there was one')
    expect(said.filter(({ type }) => type === Id.proof)).toHaveLength(1)
  })

  test('comes once, after confirm as well', async () => {
    await challenger(({ nonce }, hello, out) => {
      encodeConfirm(out, 2, tokenMac(TOKEN, 'server', NONCE, nonce, hello))
      encodeChallenge(out, 3, NONCE)
    })
    expect(await givesUp(start(TEXT))).toContain('challenge, but there was one')
  })

  test('has a nonce of 32 bytes', async () => {
    await challenger(() => {}, Buffer.alloc(31))
    expect(await givesUp(start(TEXT))).toContain('challenge.nonce: expected 32 bytes')
  })

  test('to a QEMU that was given no token breaks the protocol', async () => {
    await challenger(() => {})
    expect(await givesUp(machine.start())).toContain('challenge, but QEMU was given no token')
  })

  test('is answered with another nonce each time, and with the proof that the specification says', async () => {
    const nonces = new Set<string>()
    for (let i = 0; i < 2; i++) {
      let right = false
      await challenger(({ nonce, mac }, hello) => {
        nonces.add(Buffer.from(nonce).toString('hex'))
        right = tokenMac(TOKEN, 'qemu', NONCE, nonce, hello).equals(mac)
        server?.close()
        machine.kill('SIGKILL')
      })
      await expect(start(TEXT)).rejects.toThrow()
      expect(right).toBe(true)
      await machine.dispose()
      machine = new QtestMachine()
    }
    expect(nonces.size).toBe(2)
  })
})

test('a machine that runs is not ended by who refuses it without knowing the token, and goes on with its server', async () => {
  let hellos = 0
  const thread = await serveWith(TOKEN)
  await start(TEXT, { properties: ['reconnect-ms=60000'] })
  expect(await machine.qtest.read(SMMU, 4)).not.toBe(0n)
  await thread.stop()
  await listen((message, out) => {
    if (message.type !== Id.hello) return
    hellos += message.resumed
    encodeRefuse(out, message.seq, 1, 1, 'go away')
  })
  const read = machine.qtest.read(SMMU, 4)
  await expect.poll(() => hellos).toBeGreaterThan(2)
  await new Promise(resolve => server?.close(resolve))
  server = undefined
  await serveWith(TOKEN)
  expect(await read).not.toBe(0n)
})

describe('the secret', () => {
  test.each([
    ['too short', 'fifteen bytes..', "secret 'token' has 15 bytes: a token has at least 16"],
    ['nothing but the end of a line', '\n', "secret 'token' has 0 bytes: a token has at least 16"],
  ])('%s', async (_name, text, message) => {
    await expect(start(text)).rejects.toThrow(message)
  })

  test('that is not there', async () => {
    await expect(machine.start({ properties: ['token-secret=token'] })).rejects.toThrow(/token/)
  })
})
