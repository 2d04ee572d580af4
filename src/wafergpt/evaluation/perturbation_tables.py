"""What is put in the place of what, where texts are changed and keep their meaning."""

from __future__ import annotations

from wafergpt.data.spelling import LOOK_ALIKES

_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")

# Of the keys of a row, each touches those above and below that overlap it.
NEIGHBOURS: dict[str, tuple[str, ...]] = {
    key: tuple(
        row[near]
        for there, row in enumerate(_KEYBOARD)
        for near in {
            0: (place - 1, place + 1),
            -1: (place, place + 1),
            1: (place - 1, place),
        }.get(there - line, ())
        if 0 <= near < len(row)
    )
    for line, keys in enumerate(_KEYBOARD)
    for place, key in enumerate(keys)
}
"""Keys that touch a letter's key on a QWERTY keyboard."""

OCR: dict[str, tuple[str, ...]] = {
    "rn": ("m",), "m": ("rn",), "cl": ("d",), "d": ("cl",), "vv": ("w",), "w": ("vv",),
    "li": ("h",), "ii": ("u",), "l": ("1", "I"), "I": ("l", "1"), "1": ("l", "I"), "O": ("0",),
    "0": ("O",), "o": ("0", "c"), "S": ("5",), "s": ("5",), "5": ("S",), "B": ("8",), "8": ("B",),
    "e": ("c",), "c": ("e",), "h": ("b",), "b": ("h", "6"), "g": ("9", "q"), "q": ("g",),
    "Z": ("2",), "z": ("2",), "2": ("Z",), "a": ("o",), "u": ("ii", "v"), "n": ("ri",),
    "t": ("f",), "f": ("t",), "i": ("j", "1"), "G": ("6",), "6": ("G",), "y": ("v",), "E": ("F",),
    "D": ("O",),
}  # fmt: skip
"""What a reader of scanned pages takes for something else."""

HOMOGLYPHS: dict[str, tuple[str, ...]] = {
    letter: tuple(other for other, looks in LOOK_ALIKES.items() if looks == letter)
    for letter in LOOK_ALIKES.values()
}
"""Cyrillic and Greek letters that look like a Latin one."""

_VERBS = "do does did is are was were has have had would could should must need might"

NOT: dict[str, str] = {f"{verb} not": f"{verb}n't" for verb in _VERBS.split()} | {
    "can not": "can't",
    "cannot": "can't",
    "will not": "won't",
    "shall not": "shan't",
}
"""Contractions of ``not``, which can stand anywhere."""

CONTRACTIONS: dict[str, str] = {
    "i am": "i'm",
    **{f"{who} are": f"{who}'re" for who in ("you", "we", "they")},
    **{
        f"{who} {verb}": f"{who}{short}"
        for who in ("i", "you", "he", "she", "it", "we", "they")
        for verb, short in (("will", "'ll"), ("would", "'d"))
    },
    **{
        f"{who} is": f"{who}'s"
        for who in ("he", "she", "it", "that", "there", "what", "who", "where", "here")
    },
}
"""Contractions that must be followed by a word: nobody says "yes, it's." """

EXPANDED = ("it's", "that's", "what's", "there's", "he's", "she's")
"""Words whose ending may stand for ``is`` or ``has``."""

_AFTER_IS = """
a an the not so very really too just quite also always never my your his her our their about going
"""

AFTER_IS = tuple(_AFTER_IS.split())
"""Words before which it stands for ``is``."""

PREFIXES = (
    "Well, ", "To be honest, ", "Honestly, ", "I mean, ", "You know, ", "Okay, ", "As I see it, ",
    "In my opinion, ", "I would say, ", "So, ",
)  # fmt: skip

PREFIXES_CHINESE = (
    "说实话，", "老实说，", "其实，", "我觉得，", "总的来说，", "怎么说呢，", "嗯，", "要我说，"
)  # fmt: skip

_LOWERED = """
The This That These Those It Its We My Our Your You He She They There Here A An If When While As At
In On For From With What Which Who Why How Where Is Are Was Were Do Does Did Can Could Would Will
Should Have Has Had Please Not No One Some Every Everything
"""

LOWERED = tuple(_LOWERED.split())
"""First words that are written small after a prefix."""

SYNONYMS: dict[str, tuple[str, ...]] = {
    "maybe": ("perhaps",), "perhaps": ("maybe",), "movie": ("film",), "film": ("movie",),
    "movies": ("films",), "films": ("movies",), "because": ("since", "as"),
    "although": ("though", "even though"), "nearly": ("almost",), "almost": ("nearly",),
    "often": ("frequently",), "frequently": ("often",), "usually": ("normally",),
    "buy": ("purchase",), "bought": ("purchased",), "purchased": ("bought",),
    "begin": ("start",), "begins": ("starts",), "began": ("started",), "started": ("began",),
    "a lot of": ("lots of",), "lots of": ("a lot of",), "in order to": ("so as to",),
    "for example": ("for instance",), "for instance": ("for example",), "such as": ("like",),
    "right away": ("at once", "immediately"), "immediately": ("at once", "right away"),
    "at the moment": ("right now", "at present"), "right now": ("at the moment",),
    "however": ("nevertheless", "that said"), "therefore": ("for that reason",),
    "in addition": ("besides",), "in the end": ("finally",), "someone": ("somebody",),
    "somebody": ("someone",), "everyone": ("everybody",), "everybody": ("everyone",),
    "anyone": ("anybody",), "anybody": ("anyone",), "no one": ("nobody",), "nobody": ("no one",),
    "toward": ("towards",), "towards": ("toward",), "until": ("till",), "whole": ("entire",),
    "entire": ("whole",), "i want to": ("i would like to",), "i would like to": ("i want to",),
    "i need to": ("i have to",), "how do i": ("how can i",), "how can i": ("how do i",),
    "can you": ("could you",), "could you": ("can you",), "large": ("big",), "kids": ("children",),
    "kid": ("child",), "children": ("kids",), "as soon as": ("once",), "these days": ("nowadays",),
    "nowadays": ("these days",), "apart from": ("aside from",), "all the time": ("constantly",),
}  # fmt: skip
"""Words and phrases, and what can stand for each; none is of praise or blame."""

SYNONYMS_CHINESE: dict[str, tuple[str, ...]] = {
    "但是": ("不过", "可是"), "不过": ("但是",), "可是": ("但是",), "因为": ("由于",),
    "由于": ("因为",), "所以": ("因此",), "因此": ("所以",), "如果": ("要是", "假如"),
    "非常": ("十分",), "十分": ("非常",), "虽然": ("尽管",), "尽管": ("虽然",), "而且": ("并且",),
    "并且": ("而且",), "也许": ("或许",), "或许": ("也许",), "总是": ("老是",), "马上": ("立刻",),
    "立刻": ("马上",), "现在": ("目前",), "目前": ("现在",), "大家": ("各位",), "为什么": ("为何",),
    "怎么样": ("如何",), "应该": ("应当",), "应当": ("应该",), "觉得": ("感觉",), "一直": ("始终",),
    "或者": ("或是",), "比如": ("例如",), "例如": ("比如",), "另外": ("此外",), "此外": ("另外",),
    "的时候": ("时",), "几乎": ("差不多",), "经常": ("时常",), "常常": ("经常",), "刚刚": ("刚才",),
}  # fmt: skip

_SOUNDS: tuple[tuple[str, ...], ...] = (
    ("的", "得", "地"), ("在", "再"), ("做", "作"), ("他", "她", "它"), ("那", "哪"), ("像", "象"),
    ("账", "帐"), ("座", "坐"), ("即", "既"), ("须", "需"), ("份", "分"), ("很", "狠"),
    ("带", "戴"), ("近", "进"), ("已", "以"), ("原", "源"), ("园", "圆"), ("刻", "克"),
    ("定", "订"), ("查", "察"), ("其", "期"), ("是", "事"), ("有", "友"), ("又", "右"),
    ("反应", "反映"), ("必须", "必需"), ("其他", "其它"), ("部分", "部份"), ("时候", "时侯"),
    ("应该", "因该"), ("做为", "作为"), ("交代", "交待"), ("账号", "帐号"), ("订单", "定单"),
    ("什么", "神马"), ("没有", "木有"), ("东西", "东东"), ("这样", "酱紫"), ("喜欢", "稀饭"),
    ("非常", "灰常"), ("怎么", "肿么"), ("觉得", "脚得"), ("我们", "偶们"), ("知道", "之道"),
)  # fmt: skip

HOMOPHONES: dict[str, tuple[str, ...]] = {
    word: tuple(other for other in same if other != word) for same in _SOUNDS for word in same
}
"""Words that sound alike, or nearly, and are often typed for each other."""

FULL_WIDTH: dict[str, tuple[str, ...]] = {
    **{chr(code): (chr(code + 0xFEE0),) for code in range(0x21, 0x7F)},
    **{chr(code + 0xFEE0): (chr(code),) for code in range(0x21, 0x7F)},
    "。": (".",),
}
"""Digits, Latin letters and punctuation, half as wide or as wide as a Chinese character."""

_PAIRS = """
们們 这這 个個 来來 时時 会會 对對 为為 说說 国國 学學 过過 还還 没沒 经經 样樣 点點 开開 关關
门門 问問 间間 现現 见見 觉覺 听聽 读讀 写寫 书書 电電 话話 车車 东東 长長 动動 业業 务務 员員
产產 严嚴 丽麗 举舉 义義 乐樂 习習 乡鄉 买買 卖賣 乱亂 争爭 亏虧 亚亞 亲親 亿億 仅僅 从從 仓倉
仪儀 价價 众眾 优優 伟偉 传傳 伤傷 伦倫 伪偽 体體 侠俠 侣侶 侧側 侦偵 债債 倾傾 偿償 储儲 儿兒
兰蘭 兴興 养養 兽獸 内內 册冊 军軍 农農 决決 况況 冻凍 净淨 减減 凤鳳 凭憑 凯凱 击擊 刘劉 则則
刚剛 创創 删刪 别別 剂劑 剑劍 剧劇 劝勸 办辦 励勵 劲勁 劳勞 势勢 区區 医醫 华華 协協 单單 卢盧
卫衛 厂廠 厅廳 压壓 厌厭 厕廁 县縣 参參 双雙 变變 叙敘 叶葉 号號 叹嘆 吓嚇 吗嗎 启啟 吴吳 响響
哑啞 唤喚 喷噴 嘱囑 园園 围圍 图圖 圆圓 圣聖 场場 坏壞 块塊 坚堅 坛壇 坟墳 垄壟 垫墊 墙牆 声聲
壳殼 处處 备備 够夠 头頭 夹夾 夺奪 奋奮 奖獎 妇婦 妈媽 娱娛 娇嬌 孙孫 宁寧 宝寶 实實 宠寵 审審
宪憲 宫宮 宽寬 宾賓 寻尋 导導 寿壽 将將 尔爾 尘塵 层層 届屆 属屬 岁歲 岛島 岗崗 币幣 帅帥 师師
帐帳 带帶 帮幫 库庫 应應 庙廟 废廢 异異 弃棄 张張 弹彈 强強 归歸 录錄 彻徹 径徑 忆憶 忧憂 怀懷
态態 怜憐 总總 恋戀 恳懇 恶惡 恼惱 悬懸 惊驚 惧懼 惨慘 惯慣 懒懶 戏戲 战戰 户戶 扑撲 执執 扩擴
扫掃 扬揚 扰擾 抚撫 抢搶 护護 报報 担擔 拟擬 拥擁 择擇 挂掛 挡擋 挤擠 挥揮 损損 换換 据據 掷擲
搅攪 摄攝 摆擺 摇搖 撑撐 敌敵 数數 断斷 无無 旧舊 显顯 晓曉 暂暫 术術 机機 杀殺 杂雜 权權 条條
杨楊 极極 构構 枪槍 柜櫃 标標 栋棟 栏欄 树樹 档檔 桥橋 梦夢 检檢 楼樓 欢歡 欧歐 残殘 毁毀 毕畢
气氣 汉漢 汤湯 沟溝 沪滬 泪淚 泽澤 洁潔 浅淺 测測 济濟 浑渾 浓濃 涛濤 润潤 涨漲 渐漸 渔漁 湿濕
满滿 滚滾 滨濱 潜潛 灭滅 灯燈 灵靈 灾災 炉爐 炼煉 热熱 烂爛 烟煙 烦煩 烧燒 爱愛 爷爺 犹猶 独獨
狮獅 猎獵 猫貓 猪豬 献獻 环環 玛瑪 琐瑣 画畫 畅暢 疗療 疯瘋 瘾癮 盖蓋 盘盤 监監 盐鹽 矿礦 码碼
确確 碍礙 礼禮 祸禍 离離 种種 积積 称稱 稳穩 穷窮 窃竊 竞競 笔筆 简簡 类類 紧緊 红紅 约約 级級
纪紀 纯純 纸紙 线線 练練 组組 细細 终終 绍紹 结結 绕繞 给給 绝絕 统統 继繼 绩績 续續 维維 综綜
绿綠 缓緩 编編 缘緣 缩縮 缴繳 网網 罗羅 罚罰 职職 联聯 聪聰 肃肅 肤膚 肿腫 胀脹 胶膠 脑腦 脚腳
脱脫 脸臉 腻膩 艺藝 节節 芦蘆 苹蘋 荣榮 药藥 莱萊 营營 萧蕭 蓝藍 虑慮 虽雖 虾蝦 蚀蝕 补補 衬襯
装裝 观觀 规規 视視 览覽 触觸 计計 订訂 认認 讨討 让讓 训訓 议議 记記 讲講 许許 论論 设設 访訪
证證 评評 识識 诉訴 词詞 译譯 试試 诗詩 诚誠 询詢 该該 详詳 语語 误誤 请請 诸諸 课課 谁誰 调調
谈談 谊誼 谋謀 谓謂 谢謝 谱譜 负負 财財 责責 败敗 账賬 货貨 质質 购購 贴貼 贵貴 贷貸 费費 贸貿
资資 赏賞 赔賠 赖賴 赚賺 赛賽 赞贊 赵趙 趋趨 跃躍 践踐 踪蹤 轨軌 转轉 轮輪 软軟 轻輕 载載 较較
辆輛 辈輩 辑輯 输輸 边邊 达達 迁遷 迈邁 运運 进進 远遠 违違 连連 迟遲 适適 选選 递遞 逻邏 遗遺
邓鄧 邮郵 邻鄰 郑鄭 酱醬 酿釀 释釋 针針 钢鋼 钱錢 铁鐵 铜銅 银銀 铺鋪 链鏈 销銷 锁鎖 锅鍋 错錯
锦錦 键鍵 镇鎮 镜鏡 闪閃 闭閉 闲閒 闷悶 闹鬧 闻聞 阅閱 队隊 阳陽 阴陰 阵陣 阶階 际際 陆陸 陈陳
险險 随隨 隐隱 难難 雾霧 静靜 韩韓 页頁 顶頂 项項 顺順 顾顧 顿頓 预預 领領 频頻 题題 颜顏 额額
风風 飞飛 饭飯 饮飲 饰飾 饱飽 饼餅 饿餓 馆館 马馬 驱驅 驶駛 驾駕 验驗 骑騎 骗騙 骚騷 鱼魚 鲜鮮
鸟鳥 鸡雞 鸣鳴 鸭鴨 麦麥 黄黃 齐齊 齿齒 龙龍 龟龜 与與 万萬 专專 丰豐 临臨 丢丟 两兩
"""

TRADITIONAL: dict[str, tuple[str, ...]] = {pair[0]: (pair[1],) for pair in _PAIRS.split()}
"""Frequent simplified characters that have one traditional form in nearly all words."""
